"""Starts the demo's backfill through Airflow's API, and watches it until its runs have ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime

from rich.console import Console

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.progress import DayRun, progress
from capsfusion_tasks.errors import NotReadyError

POLL_SECONDS = 3.0  # time between two requests; not shorter, because a slow Airflow takes half a second to answer
SILENCE_SECONDS = 120  # maximum time without an answer; on a busy machine, Airflow's server may be slow


def backfill(api: AirflowApi, days: list[date], console: Console, *, check: Callable[[], None]) -> list[DayRun]:
    """Backfill ``days``. Days that an earlier demo has backfilled run again, but their pairs are not fused again.

    Calls ``check`` at each poll. ``check`` raises an error to stop the wait.
    """
    if api.close_backfills():
        console.print("an earlier demo was interrupted: continuing its backfill")
        runs = _watch(api, days, console, check)
        api.close_backfills()
        if [run.day for run in runs if run.state == "success"] == [str(day) for day in days]:
            return runs
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (days[0], days[-1]))
    api.backfill(first, last, reprocess="completed", max_active_runs=len(days))
    return _watch(api, days, console, check)


def _watch(api: AirflowApi, days: list[date], console: Console, check: Callable[[], None]) -> list[DayRun]:
    """Show the progress of the runs of ``days`` until all have ended."""
    answered = time.monotonic()
    with progress(console) as display:
        while True:
            check()
            try:
                runs = _runs(api, days)
                answered = time.monotonic()
            except NotReadyError:
                if time.monotonic() - answered > SILENCE_SECONDS:
                    raise
                continue
            display.show(runs)
            if runs and all(run.state in ("success", "failed") for run in runs):
                return runs
            time.sleep(POLL_SECONDS)


def _runs(api: AirflowApi, days: list[date]) -> list[DayRun]:
    span = {"logical_date_gte": f"{days[0]}T00:00:00Z", "logical_date_lte": f"{days[-1]}T00:00:00Z"}
    tasks: dict[str, dict[str, list[str | None]]] = defaultdict(lambda: defaultdict(list))
    for instance in api.task_instances(**span):
        tasks[instance["dag_run_id"]][instance["task_id"]].append(instance["state"])
    return [DayRun(run["logical_date"][:10], run["state"], tasks[run["dag_run_id"]]) for run in api.runs(**span)]
