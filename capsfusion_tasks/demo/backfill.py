"""The demo's backfill: started through Airflow's API, and watched until its runs have ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime

from rich.console import Console

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.progress import Day, progress
from capsfusion_tasks.errors import NotReadyError

POLL_SECONDS = 1.0
SILENCE_SECONDS = 120  # a busy machine may leave Airflow's server without an answer for a while


def backfill(api: AirflowApi, days: list[date], console: Console, *, check: Callable[[], None]) -> list[Day]:
    """One backfill over ``days``; days that ran before run again, and find what is there.

    ``check`` is called all the while, and raises where waiting has no use.
    """
    if api.close_backfills():
        console.print("an earlier demo was broken off: going on with its backfill")
        runs = _watch(api, days, console, check)
        api.close_backfills()
        if [run.day for run in runs if run.state == "success"] == [str(day) for day in days]:
            return runs
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (days[0], days[-1]))
    api.backfill(first, last, reprocess="completed", max_active_runs=len(days))
    console.print(f"Airflow backfills {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    return _watch(api, days, console, check)


def _watch(api: AirflowApi, days: list[date], console: Console, check: Callable[[], None]) -> list[Day]:
    """Show what the runs of ``days`` do until all have ended."""
    answered = time.monotonic()
    with progress(console) as face:
        while True:
            check()
            try:
                runs = _runs(api, days)
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
