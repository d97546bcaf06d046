"""Measures Airflow during a run with many units: tasks per minute, CPU time, and how fast Airflow's pages load.

    python -m benchmarks.airflow_units [--units 1024] [--slots 4] [--minutes 15] [--home DIR]

A unit is a batch of caption pairs that one task fuses, which means that a model merges each pair into one caption. The
benchmark plans units of one pair each. Before the run, it writes their fused captions itself, without a model. So each
``fuse`` task finds that its unit is already fused, and does not start torchrun. One run of the DAG in a local Airflow
(LocalExecutor, by default 4 tasks at a time) validates and loads the units. Every minute, the benchmark prints how many
tasks have ended, the CPU seconds so far, and how long Airflow takes to answer two requests: one for the grid of tasks,
one for the list of a mapped task's instances. The last table has the median duration of each task. The benchmark ends
after ``--minutes``, even if the run has not ended.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Column, Table

from capsfusion_tasks.context import Context, open_context
from capsfusion_tasks.demo import airflow_server
from capsfusion_tasks.demo.airflow_api import DAG
from capsfusion_tasks.demo.airflow_server import USER, LocalAirflow, local_airflow
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import CAPTION, FUSED, Unit
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.tasks import interval_tasks, unit_tasks
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import embedded_postgres

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
ENDED = ("success", "failed", "skipped", "upstream_failed")
HEADINGS = (
    *("minute", "tasks", "ended", "scheduler CPU s", "API CPU s", "all CPU s"),
    *("grid ms", "grid kB", "task list ms"),
)
console = Console(width=120)


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1024)
    parser.add_argument("--minutes", type=float, default=15, help="time limit of the benchmark, in minutes")
    parser.add_argument(
        "--slots",
        type=int,
        default=airflow_server.PARALLELISM,
        help="maximum number of tasks that run in parallel, including fuse tasks (default: 4)",
    )
    parser.add_argument("--every", type=float, default=60, help="seconds between two measurements (default: 60)")
    parser.add_argument("--home", type=Path, help="folder for Airflow and PostgreSQL (default: a temporary folder)")
    args = parser.parse_args()
    airflow_server.PARALLELISM = args.slots
    with tempfile.TemporaryDirectory(prefix="capsfusion-bench-") as scratch:
        home = args.home or Path(scratch)
        write_sample_data(home / "sample", rows_per_day=args.units, days=1)
        with embedded_postgres(home, ["warehouse", "airflow"]) as server:
            settings = load_settings(
                laion2b=str(home / "sample" / FOLDER["laion_2b"]),
                laion_coco=str(home / "sample" / FOLDER["laion_coco"]),
                warehouse_url=server.url("warehouse").render_as_string(hide_password=False),
                home=home,
                unit_tokens=1,
                keep_units_days=0,
            )
            began = time.perf_counter()
            with open_warehouse(settings, migrate=True):
                pass
            with open_context(settings) as context:
                units = plan_units(context, args.units)
                for unit in units:
                    fuse_without_model(context, unit)
            console.print(f"{len(units)} units planned and fused in {time.perf_counter() - began:.0f} s")
            airflow_database = server.url("airflow", driver="psycopg2").render_as_string(hide_password=False)
            with local_airflow(home, airflow_database, settings.environment(), say=console.print) as airflow:
                follow_run(airflow, 60 * args.minutes, args.every)


def plan_units(context: Context, most: int) -> list[Unit]:
    for shard in interval_tasks.discover(context, DAY):
        interval_tasks.pull(context, shard)
    for group in interval_tasks.bucket_groups(context):
        interval_tasks.pair(context, DAY, group)
    return interval_tasks.plan(context, DAY, max_units=most)


def fuse_without_model(context: Context, unit: Unit) -> None:
    """Write the files of fused captions that torchrun would write. Uses the synthetic captions as fused captions."""
    pairs = context.storage.read_table(layout.unit_pairs(unit.unit_id))
    captions = [
        {"row": n, "capsfusion": text, "finish_reason": "stop", "prompt_tokens": 9, "caption_tokens": 9}
        for n, text in enumerate(pairs["laion_coco"].to_pylist())
    ]
    unit_tasks.fuse_started(context, unit)
    known = pa.Table.from_pylist(captions, pa.schema([FUSED.field("row"), *CAPTION]))
    chunks.publish_known(context.storage, layout.chunks_folder(unit.unit_id), unit.fusion_id, pairs, known)
    unit_tasks.fuse_finished(context, unit)


def follow_run(airflow: LocalAirflow, seconds: float, every: float) -> None:
    """Start a run of the DAG. Print task counts, CPU and response times until it ends or ``seconds`` have passed."""
    table = Table(title="one run, totals so far")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    api, parent = airflow.api, psutil.Process(airflow.process.pid)
    http = pages_client(airflow)
    api.request("POST", "/pools", {"name": "gpu", "slots": airflow_server.PARALLELISM})
    api.unpause()
    api.backfill(DAY.start, DAY.start, reprocess="completed", max_active_runs=1)
    began, before = time.monotonic(), cpu_seconds(parent)
    state, tasks = "", []
    while state not in ENDED and time.monotonic() < began + seconds:
        time.sleep(every)
        run = api.runs()[0]
        state, run_id = run["state"], run["dag_run_id"]
        used = cpu_seconds(parent)
        grid = timed(http, f"/ui/grid/ti_summaries/{DAG}", run_ids=run_id)
        listed = timed(http, f"/api/v2/dags/{DAG}/dagRuns/{run_id}/taskInstances", limit=100, task_id="each_unit.fuse")
        tasks = api.task_instances(run_id)
        figures = [
            (time.monotonic() - began) / 60,
            len(tasks),
            sum(task["state"] in ENDED for task in tasks),
            *(used[name] - before[name] for name in ("scheduler", "api", "all")),
            grid[0],
            grid[1] / 1e3,
            listed[0],
        ]
        row = [f"{figures[0]:.1f}", *(f"{figure:,.0f}" for figure in figures[1:])]
        table.add_row(*row)
        console.print(", ".join(f"{name} {figure}" for name, figure in zip(HEADINGS, row, strict=True)))
    console.print(table)
    console.print(f"The run is {state}.")
    console.print(by_task(tasks))


def pages_client(airflow: LocalAirflow) -> httpx2.Client:
    """An HTTP client that is logged in to Airflow."""
    url = airflow.api.url
    login = httpx2.post(f"{url}/auth/token", json={"username": USER, "password": airflow.password}, timeout=60)
    token = login.raise_for_status().json()["access_token"]
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=120)


def by_task(tasks: list[dict[str, Any]]) -> Table:
    """A table with one row per task: how many of its instances succeeded, and how many seconds they took."""
    seconds = defaultdict(list)
    for task in tasks:
        if task["state"] == "success" and task["duration"] is not None:
            seconds[task["task_id"]].append(task["duration"])
    table = Table("task", *(Column(name, justify="right") for name in ("ended", "median s", "longest s", "sum s")))
    for name, each in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        figures = statistics.median(each), max(each), sum(each)
        table.add_row(name, f"{len(each):,}", *(f"{figure:,.1f}" for figure in figures))
    return table


def cpu_seconds(parent: psutil.Process) -> Counter[str]:
    """CPU seconds used so far by the scheduler, by the API server, and by all of Airflow's processes together."""
    found: Counter[str] = Counter({"scheduler": 0, "api": 0, "all": 0})
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times, command = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        own = times.user + times.system
        # The times children_user and children_system are those of child processes that have ended.
        found["all"] += own + times.children_user + times.children_system
        if "airflow scheduler" in command:
            found["scheduler"] += own
        elif "api_server" in command or "api-server" in command:
            found["api"] += own
    return found


def timed(http: httpx2.Client, path: str, **query: Any) -> tuple[float, int]:
    """Request one of Airflow's pages. Returns the milliseconds until the response, and its size in bytes."""
    began = time.perf_counter()
    answer = http.get(path, params=query).raise_for_status()
    return 1e3 * (time.perf_counter() - began), len(answer.content)


if __name__ == "__main__":
    main()
