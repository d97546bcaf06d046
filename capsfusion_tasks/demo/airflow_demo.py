"""`capsfusion demo` and `capsfusion up`: run Airflow and PostgreSQL on this machine until the command ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from capsfusion_tasks.demo.airflow_server import USER, LocalAirflow, local_airflow
from capsfusion_tasks.demo.backfill import backfill
from capsfusion_tasks.demo.phases import Phases, introduction
from capsfusion_tasks.demo.progress import LEGEND
from capsfusion_tasks.demo.results import read_results, show_next_steps, show_results
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER, SampleReport, read_report
from capsfusion_tasks.fusion.torchrun_command import gpu_count
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import embedded_postgres, server_of

WAREHOUSE, AIRFLOW = "capsfusion", "airflow"  # databases to create on the embedded PostgreSQL server
ROWS_PER_DAY = 40  # number of pairs per day; with 40, the demo takes one to two minutes on two CPU cores
# Number of shards of LAION-2B, and of LAION-COCO, per day. More would take longer: Airflow runs a task for each shard.
SHARDS_PER_SIDE_PER_DAY = 1
# Number of fuse tasks that run at the same time without a GPU: one for each day. Each task takes a gigabyte of memory.
FUSE_TASKS = 3
POLL_SECONDS = 1.0


def run_demo(settings: Settings) -> int:
    """Write sample shards for three days, backfill the days with Airflow, show the results. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    with _interrupted_by_signals():
        try:
            console.print(introduction(settings), markup=False)
            phases = Phases(console, total=4)
            with phases.phase("Write sample shards that arrive day by day"):
                sample = _write_sample(settings.home)
                console.print(f"    {sample.pairs} pairs in {settings.home / 'sample'}", markup=False)
            days = [each.day for each in sample.days]
            settings, fuse_tasks = _on_sample(settings)
            with ExitStack() as running:
                with phases.phase("Start PostgreSQL and Airflow on this machine"):
                    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")} if fuse_tasks > 1 else {}
                    airflow = running.enter_context(_service(settings, console, variables=threads))
                before = read_results(settings, days)
                with phases.phase(f"Backfill {days[0]} to {days[-1]} through Airflow's API"):
                    console.print(LEGEND, style="dim", markup=False)
                    airflow.api.set_pool("gpu", fuse_tasks)
                    runs = backfill(airflow.api, days, console, check=airflow.check)
                results = read_results(settings, days)
                with phases.phase("Stop Airflow and PostgreSQL"):
                    running.close()
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running. The same command continues from here")
            return 130
    logs = f"see {settings.home / 'airflow' / 'logs' / 'dag_id=capsfusion'}"
    if code := show_results(before, results, sample.pairs, runs, phases.seconds, logs, console):
        return code
    console.print(introduction(settings), markup=False)
    show_next_steps(settings, console)
    return 0


def up(settings: Settings, port: int) -> int:
    """Run Airflow with its UI on ``port`` until Ctrl-C. Airflow starts a run every day. Returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    if not {"laion2b", "laion_coco"} <= settings.model_fields_set:
        _write_sample(settings.home)
        settings = settings.model_copy(update=_sample_sources(settings.home))
    with _interrupted_by_signals():
        try:
            with _service(settings, console, port=port, scheduled=True) as airflow:
                console.print(f"Airflow: {airflow.api.url}  (user {USER}, password {airflow.password})", markup=False)
                console.print("To run some days, open the DAG capsfusion: Trigger → Backfill. Ctrl-C stops everything.")
                while True:
                    airflow.check()
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
    return 0


@contextmanager
def _service(
    settings: Settings,
    console: Console,
    *,
    port: int | None = None,
    scheduled: bool = False,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[LocalAirflow]:
    """Run PostgreSQL and Airflow. If ``settings`` name no warehouse URL, the warehouse is in this PostgreSQL.

    ``variables``: environment variables of the tasks, besides the settings.
    """

    def say(line: str) -> None:
        console.print(line, markup=False)

    server = server_of(settings.home)
    embedded = SecretStr(server.url(WAREHOUSE).render_as_string(hide_password=False))
    environment = settings.model_copy(update={"warehouse_url": settings.warehouse_url or embedded}).environment()
    airflow_database = server.url(AIRFLOW, driver="psycopg2").render_as_string(hide_password=False)
    with ExitStack() as databases:  # the databases stop after Airflow

        def start_databases() -> None:
            databases.enter_context(embedded_postgres(settings.home, [WAREHOUSE, AIRFLOW]))
            with open_warehouse(settings, migrate=True):
                pass

        with local_airflow(
            settings.home,
            airflow_database,
            {**environment, **variables},
            say=say,
            port=port,
            scheduled=scheduled,
            start_database=start_databases,
        ) as airflow:
            yield airflow


def _write_sample(home: Path) -> SampleReport:
    """Write the demo's sample shards.

    A sample that already exists keeps its size, which may differ if an earlier version of the demo wrote it.
    """
    if earlier := read_report(home / "sample"):
        return write_sample_data(home / "sample", **earlier.parameters.model_dump())
    return write_sample_data(
        home / "sample", rows_per_day=ROWS_PER_DAY, shards_per_side_per_day=SHARDS_PER_SIDE_PER_DAY
    )


def _sample_sources(home: Path) -> dict[str, str]:
    return {
        "laion2b": str(home / "sample" / FOLDER["laion_2b"]),
        "laion_coco": str(home / "sample" / FOLDER["laion_coco"]),
    }


def _on_sample(settings: Settings) -> tuple[Settings, int]:
    """Return ``settings``, changed to read the sample and to use the warehouse and the staging area in the home folder.

    Therefore made-up captions are never loaded into a warehouse with real captions. Also returns the number of fuse
    tasks that should run at the same time.
    """
    demo: dict[str, Any] = {**_sample_sources(settings.home), "warehouse_url": None, "staging": None, "chunk_rows": 16}
    # Without a GPU, fuse all days at the same time, with one rank (process) and one thread for each day. On two cores,
    # this takes three quarters of the time of two ranks that fuse one day after the other. One rank with two threads
    # would take even longer than these two ranks, because the model is small.
    parallel = settings.nproc_per_node == "auto" and not gpu_count()
    return settings.model_copy(update=demo), FUSE_TASKS if parallel else 1


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP (a closed terminal) like Ctrl-C, so that PostgreSQL and Airflow end too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # Under nohup, SIGHUP is ignored and must stay ignored.
    handled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = [signal.signal(each, interrupt) for each in handled]
    try:
        yield
    finally:
        for each, handler in zip(handled, before, strict=True):
            signal.signal(each, handler)
