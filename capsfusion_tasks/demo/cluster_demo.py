"""`capsfusion demo --airflow URL`: runs the demo on an Airflow that is already running, and on its workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.console import Console

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.backfill import POLL_SECONDS, backfill
from capsfusion_tasks.demo.phases import Phases, introduction
from capsfusion_tasks.demo.progress import LEGEND
from capsfusion_tasks.demo.results import read_results, show_results
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings

ROWS_PER_DAY = 100
DAG_SECONDS = 300  # time limit until the DAG is parsed; a scheduler that has just started takes up to a minute


def run_demo_on(settings: Settings, url: str) -> int:
    """Write sample shards to the workers' source folders, backfill their days, show results. Returns the exit code.

    ``settings`` must name the same sources, staging area and warehouse as the workers' settings. Raises InputError
    unless the sources are the two folders of a sample, so that made-up shards never mix with real shards.
    """
    console = Console(highlight=False, soft_wrap=True)
    api = AirflowApi(url.rstrip("/"), *_login())
    folder = _sample_folder(settings)
    _wait_for_dag(api)
    console.print(introduction(settings), markup=False)
    phases = Phases(console, total=3)
    with phases.phase("Write sample shards that arrive day by day"):
        sample = write_sample_data(folder, rows_per_day=ROWS_PER_DAY)
        console.print(f"    {sample.pairs} pairs in {folder}", markup=False)
    days = [each.day for each in sample.days]
    before = read_results(settings, days)
    with phases.phase(f"Backfill {days[0]} to {days[-1]} through Airflow's API"):
        console.print(LEGEND, style="dim", markup=False)
        api.unpause()
        runs = backfill(api, days, console, check=lambda: None)
    with phases.phase("Read the results from the warehouse"):
        results = read_results(settings, days)
    return show_results(before, results, sample.pairs, runs, phases.seconds, f"see {url}", console)


def _login() -> tuple[str, str]:
    try:
        return os.environ["ADMIN_USER"], os.environ["ADMIN_PASSWORD"]
    except KeyError as error:
        raise InputError(
            f"{error.args[0]} is not set: set ADMIN_USER and ADMIN_PASSWORD to Airflow's user and password"
        ) from None


def _wait_for_dag(api: AirflowApi) -> None:
    deadline = time.monotonic() + DAG_SECONDS
    while api.dag_parsed_at() is None:
        if errors := api.import_errors():
            raise InputError(f"Airflow cannot import the DAG: {errors[0].strip().splitlines()[-1]}")
        if time.monotonic() > deadline:
            raise NotReadyError(
                f"Airflow at {api.url} has no DAG capsfusion after {DAG_SECONDS} s: check that its DAGs folder is"
                " this repository's dags/"
            )
        time.sleep(POLL_SECONDS)


def _sample_folder(settings: Settings) -> Path:
    folder = Path(settings.laion2b).parent
    found = (settings.laion2b, settings.laion_coco)
    if found != (str(folder / FOLDER["laion_2b"]), str(folder / FOLDER["laion_coco"])):
        raise InputError(
            f"the demo writes sample shards into the folders of the sources, but these are {' and '.join(found)}: "
            f"expected two folders DIR/{FOLDER['laion_2b']} and DIR/{FOLDER['laion_coco']}; "
            "for the demo, unset CAPSFUSION_LAION2B and CAPSFUSION_LAION_COCO in .env"
        )
    return folder
