"""`capsfusion demo` and `capsfusion up`: the whole service on one machine, and nothing left over when they end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from capsfusion_tasks.demo.airflow_server import USER, LocalAirflow, local_airflow
from capsfusion_tasks.demo.backfill import backfill
from capsfusion_tasks.demo.results import read_results, show_next_steps, show_results
from capsfusion_tasks.demo.sample_data import FOLDER, write_sample_data
from capsfusion_tasks.fusion.launcher import gpu_count
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import embedded_postgres

WAREHOUSE, AIRFLOW = "capsfusion", "airflow"  # databases of the embedded server
ROWS_PER_DAY = 100  # three days of which two CPU cores fuse in under three minutes, start-up counted in
RANKS_MAX = 4  # each takes half a gigabyte
POLL_SECONDS = 1.0


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
                runs = backfill(airflow.api, days, console, check=airflow.check)
                results = read_results(settings, days)
        except KeyboardInterrupt:
            console.print("stopped, and nothing is left running; the same command goes on from here")
            return 130
    logs = f"see {settings.home / 'airflow' / 'logs' / 'dag_id=capsfusion'}"
    if code := show_results(before, results, sample.pairs, runs, time.monotonic() - started, logs, console):
        return code
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
        ours = SecretStr(server.url(WAREHOUSE).render_as_string(hide_password=False))
        environment = settings.model_copy(update={"warehouse_url": settings.warehouse_url or ours}).environment()
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
