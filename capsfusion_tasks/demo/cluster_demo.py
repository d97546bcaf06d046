"""`capsfusion demo --airflow URL`: the demo on an Airflow that runs already, with the executor and workers it has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.console import Console

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.backfill import POLL_SECONDS, backfill
from capsfusion_tasks.demo.results import read_results, show_results
from capsfusion_tasks.demo.sample_data import FOLDER, write_sample_data
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings

ROWS_PER_DAY = 100
DAG_SECONDS = 300  # a scheduler that has just started reads the DAG within a minute


def run_demo_on(settings: Settings, url: str) -> int:
    """Sample shards where its workers look for shards, one backfill over them, and what came out. The exit code.

    ``settings`` must be its workers': the same sources, staging area and warehouse. Raises InputError where the sources
    are not two folders of one sample, so that no sample gets in among real shards.
    """
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    api = AirflowApi(url.rstrip("/"), *_login())
    folder = _sample_folder(settings)
    _wait_for_dag(api)
    sample = write_sample_data(folder, rows_per_day=ROWS_PER_DAY)
    days = [each.day for each in sample.days]
    console.print(f"sample shards that arrived from {days[0]} to {days[-1]}: {folder}", markup=False)
    before = read_results(settings, days)
    api.unpause()
    runs = backfill(api, days, console, check=lambda: None)
    results = read_results(settings, days)
    return show_results(before, results, sample.pairs, runs, time.monotonic() - started, f"see {url}", console)


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
            raise NotReadyError(f"Airflow at {api.url} has no DAG capsfusion after {DAG_SECONDS} s: is dags/ there?")
        time.sleep(POLL_SECONDS)


def _sample_folder(settings: Settings) -> Path:
    folder = Path(settings.laion2b).parent
    found = (settings.laion2b, settings.laion_coco)
    if found != (str(folder / FOLDER["laion_2b"]), str(folder / FOLDER["laion_coco"])):
        raise InputError(
            f"the demo writes its shards where Airflow's workers look for some, that is in {' and '.join(found)}: "
            f"expected two folders DIR/{FOLDER['laion_2b']} and DIR/{FOLDER['laion_coco']}; "
            "unset CAPSFUSION_LAION2B and CAPSFUSION_LAION_COCO in .env for the demo"
        )
    return folder
