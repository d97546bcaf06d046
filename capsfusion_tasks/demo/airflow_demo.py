"""`capsfusion demo` and `capsfusion up`: the whole service on one machine, and nothing left over when they end."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.airflow_server import USER, LocalAirflow, local_airflow
from capsfusion_tasks.demo.progress import Day, progress
from capsfusion_tasks.demo.results import read_results, show_captions, show_counts, show_next_steps
from capsfusion_tasks.demo.sample_data import FOLDER, write_sample_data
from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.fusion.launcher import gpu_count
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import embedded_postgres

WAREHOUSE, AIRFLOW = "capsfusion", "airflow"  # databases of the embedded server
ROWS_PER_DAY = 100  # three days of which two CPU cores fuse in under three minutes, start-up counted in
RANKS_MAX = 4  # each takes half a gigabyte
POLL_SECONDS = 1.0
SILENCE_SECONDS = 120  # a busy machine may leave Airflow's server without an answer for a while


def run_demo(settings: Settings) -> int:
    """Sample shards of three days, one Airflow backfill over them, and what came out. The exit code."""
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    with _ended_by_signals():
        try:
            sample = write_sample_data(settings.home / "sample", rows_per_day=ROWS_PER_DAY)
            days = [each.day for each in sample.days]
            console.print(
                f"sample shards that arrived from {days[0]} to {days[-1]}: {settings.home / 'sample'}", markup=False
            )
            settings = _on_sample(settings)
            with _service(settings, console) as airflow:
                before = read_results(settings, days)
                runs = _backfill(airflow, days, console)
                results = read_results(settings, days)
        except KeyboardInterrupt:
            console.print("stopped, and nothing is left running; the same command goes on from here")
            return 130
    show_captions(results, console)
    show_counts(before, results, sample.pairs, time.monotonic() - started, console)
    if failed := [run for run in runs if run.state != "success"]:
        logs = settings.home / "airflow" / "logs" / "dag_id=capsfusion"
        console.print(
            f"the runs of {', '.join(run.day for run in failed)} failed: see {logs}", style="red", markup=False
        )
        return 1
    if results.summary.rows_in != sample.pairs:
        console.print(f"expected {sample.pairs} pairs, found {results.summary.rows_in}", style="red")
        return 1
    show_next_steps(settings, console)
    return 0


def up(settings: Settings, port: int) -> int:
    """Airflow with its UI on ``port``, until Ctrl-C; the days go by, and runs start on their own. The exit code."""
    console = Console(highlight=False, soft_wrap=True)
    if not {"laion2b", "laion_coco"} <= settings.model_fields_set:
        write_sample_data(settings.home / "sample", rows_per_day=ROWS_PER_DAY)
        settings = settings.model_copy(update=_sample_sources(settings.home))
    with _ended_by_signals():
        try:
            with _service(settings, console, port=port, scheduled=True) as airflow:
                console.print(f"Airflow: {airflow.api.url}  (user {USER}, password {airflow.password})", markup=False)
                console.print("DAG capsfusion: Trigger → Backfill runs a range of days. Ctrl-C ends everything.")
                while True:
                    airflow.check()
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
    return 0


# ---- what runs ----


@contextmanager
def _service(
    settings: Settings, console: Console, *, port: int | None = None, scheduled: bool = False
) -> Iterator[LocalAirflow]:
    """PostgreSQL for Airflow and, if none is set, for the warehouse; then Airflow, whose tasks see ``settings``."""

    def say(line: str) -> None:
        console.print(line, markup=False)

    with embedded_postgres(settings.home, [WAREHOUSE, AIRFLOW]) as server:
        with open_warehouse(settings, migrate=True):
            pass
        warehouse = settings.warehouse_url or server.url(WAREHOUSE).render_as_string(hide_password=False)
        environment = settings.model_copy(update={"warehouse_url": warehouse}).environment()
        airflow_database = server.url(AIRFLOW, driver="psycopg2").render_as_string(hide_password=False)
        with local_airflow(
            settings.home, airflow_database, environment, say=say, port=port, scheduled=scheduled
        ) as airflow:
            yield airflow


def _sample_sources(home: Path) -> dict[str, str]:
    return {
        "laion2b": str(home / "sample" / FOLDER["laion_2b"]),
        "laion_coco": str(home / "sample" / FOLDER["laion_coco"]),
    }


def _on_sample(settings: Settings) -> Settings:
    """The demo has a warehouse and a staging area of its own: made captions have no place in anybody's table."""
    demo: dict[str, Any] = {**_sample_sources(settings.home), "warehouse_url": None, "staging": None, "chunk_rows": 16}
    if settings.nproc_per_node == "auto" and not gpu_count():
        # For so small a model, a rank per core is 1.7 times as fast as one rank with threads (measured on two cores).
        demo["nproc_per_node"] = min(len(os.sched_getaffinity(0)), RANKS_MAX)
    return settings.model_copy(update=demo)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A closed terminal and a polite kill end us as Ctrl-C does: what we started ends with us."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # Under nohup, SIGHUP is ignored, and stays so.
    polite = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    before = [signal.signal(each, interrupt) for each in polite]
    try:
        yield
    finally:
        for each, handler in zip(polite, before, strict=True):
            signal.signal(each, handler)


# ---- the backfill ----


def _backfill(airflow: LocalAirflow, days: list[date], console: Console) -> list[Day]:
    """One backfill over ``days``; days that ran before run again, and find what is there."""
    api = airflow.api
    if api.close_backfills():
        console.print("an earlier demo was broken off: going on with its backfill")
        runs = _watch(airflow, days, console)
        api.close_backfills()
        if [run.day for run in runs if run.state == "success"] == [str(day) for day in days]:
            return runs
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (days[0], days[-1]))
    api.backfill(first, last, reprocess="completed", max_active_runs=len(days))
    console.print(f"Airflow backfills {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    return _watch(airflow, days, console)


def _watch(airflow: LocalAirflow, days: list[date], console: Console) -> list[Day]:
    """Show what the runs of ``days`` do until all have ended."""
    answered = time.monotonic()
    with progress(console) as face:
        while True:
            airflow.check()
            try:
                runs = _runs(airflow.api, days)
                answered = time.monotonic()
            except NotReadyError:
                if time.monotonic() - answered > SILENCE_SECONDS:
                    raise
                continue
            face.show(runs)
            if runs and all(run.state in ("success", "failed") for run in runs):
                return runs
            time.sleep(POLL_SECONDS)


def _runs(api: AirflowApi, days: list[date]) -> list[Day]:
    span = {"logical_date_gte": f"{days[0]}T00:00:00Z", "logical_date_lte": f"{days[-1]}T00:00:00Z"}
    tasks: dict[str, dict[str, list[str | None]]] = defaultdict(lambda: defaultdict(list))
    for instance in api.task_instances(**span):
        tasks[instance["dag_run_id"]][instance["task_id"]].append(instance["state"])
    return [Day(run["logical_date"][:10], run["state"], tasks[run["dag_run_id"]]) for run in api.runs(**span)]
