"""Measures how long the queries of the captions view (a web page that shows captions) take on a large warehouse.

    python -m benchmarks.explorer [--rows 2000000] [--home DIR] [--repeat 15] [--before]

The warehouse has generated captions. They belong to runs of the DAG. Each run has 100,000 rows, an interval of one day,
its own shards, and units (batches that one task fuses) of 10,000 rows. A tenth of the rows is rejected.

A request is one use of the view, for example a search for words. Half of the requests are for old or rare values, which
take longest. Each line of the output is the median of ``--repeat`` calls. A call runs all queries of the request. If
the request takes a value, such as words, its calls use different values. The column CPU is the mean CPU time of this
process and of the server's process, without the server's parallel workers. Compare this time with the wall time to see
whether a query is slow or the machine is busy.

The server is the embedded PostgreSQL with its default settings. With ``--home``, later benchmarks reuse the warehouse.
``--before`` also measures the baseline: the indexes of migration 0003, which migration 0005 replaced.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection, text

from benchmarks.generated_units import UnitMaker
from benchmarks.warehouse import FUSION, FUSION_ID, new_warehouse
from benchmarks.workload import CAPTION, read_pairs
from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.explorer.access import SECONDS
from capsfusion_tasks.explorer.figures import RunKey, figures
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Unit
from capsfusion_tasks.warehouse import choices, funnels, fusions, ledger
from capsfusion_tasks.warehouse.browse import Position, caption_page
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.embedded import embedded_postgres
from capsfusion_tasks.warehouse.facets import facets
from capsfusion_tasks.warehouse.lineage import lineage
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.reading import reading
from capsfusion_tasks.warehouse.trends import trends

RUN_ROWS, UNIT_ROWS = 100_000, 10_000
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
# CHANGED: the current indexes that migration 0005 made or changed. BEFORE: the indexes that migration 0005 replaced.
CHANGED = [
    *(
        index
        for table in (fused_captions, rejected_captions)
        for index in table.indexes
        if "loaded_at" in str(index.name)
    ),
    *(index for index in fused_captions.indexes if "flags" in str(index.name)),
    *(
        index
        for index in rejected_captions.indexes
        if str(index.name).endswith(("words_idx", "reasons_idx", "flags_idx"))
    ),
]
BEFORE = (
    "create index fused_captions_loaded_at_idx on capsfusion.fused_captions (loaded_at)",
    "create index rejected_captions_loaded_at_idx on capsfusion.rejected_captions (loaded_at)",
)
View = Callable[[Connection], Any]
console = Console(width=120, highlight=False)


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--home", type=Path, help="folder that keeps the warehouse; an existing one is reused")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--before", action="store_true", help="first measure with the old indexes (migration 0003)")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="capsfusion-bench-") as scratch,
        embedded_postgres(args.home or Path(scratch), ["explorer"]) as server,
        new_warehouse(server, "explorer") as warehouse,
    ):
        fill(warehouse, args.rows)
        if args.before:
            with old_indexes(warehouse):  # only three calls of each request, because some take seconds
                show(warehouse, 3, "with the indexes of migration 0003")
        show(warehouse, args.repeat, "with the current indexes")


def fill(warehouse: Warehouse, rows: int) -> None:
    """Load runs until the table has ``rows`` rows, then build its indexes."""
    with warehouse.engine.begin() as connection:
        fusions.register(connection, FUSION, {})
        loaded = connection.scalar(text("select coalesce(sum(rows_in), 0) from capsfusion.work_units"))
    if int(loaded or 0) >= rows:
        return
    captions = read_pairs(None, 5000, CAPTION)
    with without_indexes(warehouse):
        for run in range(int(loaded or 0) // RUN_ROWS, -(-rows // RUN_ROWS)):
            load_run(warehouse, UnitMaker(captions, seed=run), run)
            Console(stderr=True).print(f"{(run + 1) * RUN_ROWS:,} rows")
    analyze(warehouse)


def analyze(warehouse: Warehouse) -> None:
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze"))


@contextmanager
def without_indexes(warehouse: Warehouse) -> Iterator[None]:
    """Drop all indexes of the caption tables except the primary keys. Rebuild the indexes after the block."""
    indexes = [index for table in (fused_captions, rejected_captions) for index in table.indexes]
    with warehouse.engine.begin() as connection:
        for index in indexes:
            index.drop(connection)
    yield
    with warehouse.engine.begin() as connection:
        connection.execute(text("set local maintenance_work_mem = '512MB'"))
        for index in indexes:
            index.create(connection)


@contextmanager
def old_indexes(warehouse: Warehouse) -> Iterator[None]:
    """Within the block, use the indexes of migration 0003 in place of the current indexes."""
    with warehouse.engine.begin() as connection:
        for index in CHANGED:
            index.drop(connection)
        for statement in BEFORE:
            connection.execute(text(statement))
    try:
        yield
    finally:
        rebuild(warehouse)


def rebuild(warehouse: Warehouse) -> None:
    with warehouse.engine.begin() as connection:
        for name in [str(index.name) for index in CHANGED if "loaded_at" in str(index.name)]:
            connection.execute(text(f"drop index capsfusion.{name}"))
        for index in CHANGED:
            index.create(connection)
    analyze(warehouse)


def load_run(warehouse: Warehouse, maker: UnitMaker, run: int) -> float:
    """Load the units of one DAG run with ``RUN_ROWS`` rows. Returns the seconds that ``load_unit`` took."""
    seconds = 0.0
    interval = Interval(start=FIRST_DAY + timedelta(days=run), end=FIRST_DAY + timedelta(days=run + 1))
    for number in range(RUN_ROWS // UNIT_ROWS):
        rows = maker.unit(UNIT_ROWS)
        unit = Unit(unit_id=f"run-{run:04}-{number:03}", fusion_id=FUSION_ID, rows=UNIT_ROWS, tokens=150 * UNIT_ROWS)
        with warehouse.engine.begin() as connection:
            for side in ("laion_2b", "laion_coco"):
                found = sorted(set(rows[f"{side}_shard"].to_pylist()))
                ledger.record_shards(connection, [generated_shard(side, shard_id, interval) for shard_id in found])
            ledger.register_units(connection, [unit], interval, run_id(run))
            ledger.unit_fused(connection, unit.unit_id, {"gpu_seconds": 400.0, "rows_per_second": 25.0})
        started = time.perf_counter()
        load_unit(warehouse, unit.unit_id, rows, run_id(run))
        seconds += time.perf_counter() - started
    return seconds


def generated_shard(side: Any, shard_id: str, interval: Interval) -> Shard:
    path = f"{side}/{shard_id}.parquet"
    return Shard(
        shard_id=shard_id, side=side, source="made", path=path, etag="", size_bytes=1, arrived_at=interval.start
    )


def run_id(run: int) -> str:
    return f"scheduled__{FIRST_DAY + timedelta(days=run):%Y-%m-%d}"


def show(warehouse: Warehouse, repeat: int, what: str) -> None:
    table = Table(title=f"queries of the captions view, {loaded_rows(warehouse):,} rows, {what}: median of {repeat}")
    for heading in ("view", "ms", "slowest ms", "CPU ms"):
        table.add_column(heading, justify="left" if heading == "view" else "right")
    for name, calls in views(warehouse, repeat).items():
        times, cpu = zip(*(timed(warehouse, call) for call in calls), strict=True)
        table.add_row(name, f"{statistics.median(times):.1f}", f"{max(times):.1f}", f"{statistics.mean(cpu):.1f}")
    console.print(table)


def timed(warehouse: Warehouse, view: View) -> tuple[float, float]:
    """Wall time of one call, and CPU time of this process and the server's process, both in milliseconds."""
    with reading(warehouse, 10 * SECONDS) as connection:
        server = psutil.Process(int(connection.scalar(text("select pg_backend_pid()")) or 0))

        def cpu() -> float:
            times = server.cpu_times()
            return float(times.user + times.system) + time.process_time()

        started, used = time.perf_counter(), cpu()
        view(connection)
        return 1000 * (time.perf_counter() - started), 1000 * (cpu() - used)


def views(warehouse: Warehouse, repeat: int) -> dict[str, list[View]]:
    """Name of a request → its calls to time. If a request takes a value, such as words, its calls use different values.

    A request is one use of the captions view, for example a search for words.
    """

    def pages(*filters: CaptionFilter, after: Position | None = None) -> list[View]:
        return [lambda c, each=each: caption_page(c, each, after) for each in (filters * repeat)[:repeat]]  # type: ignore[misc]

    def words(*found: str, **more: Any) -> list[View]:
        return pages(*(CaptionFilter(words=each, **more) for each in found))

    def counts(*filters: CaptionFilter) -> list[View]:
        return [lambda c, each=each: facets(c, each, "caption_words") for each in (filters * repeat)[:repeat]]  # type: ignore[misc]

    with warehouse.engine.connect() as connection:
        middle = middle_row(connection)
        old_run, old_shard = run_id(0), old_shard_of(connection)
    rare = [f"w{number}" for number in range(1000, 1000 + repeat)]
    day = FIRST_DAY.date()
    return {
        "newest captions": pages(CaptionFilter()),
        "a page in the middle of the table": pages(CaptionFilter(), after=middle),
        "accepted": pages(CaptionFilter(verdict="accepted")),
        "rejected": pages(CaptionFilter(verdict="rejected")),
        "one model": pages(CaptionFilter(fusion_id=FUSION_ID)),
        "frequent words": words("man", "street", "white", "photo"),
        "a phrase": words('"in the park"', '"a man"'),
        "rare words": words(*rare),
        "rejected, frequent words": words("man", "street", "white", verdict="rejected"),
        "rejected, rare words": words(*rare, verdict="rejected"),
        "a frequent and a rare word": words(*(f"man {each}" for each in rare)),
        "a frequent reason": pages(CaptionFilter(reason="truncated")),
        "a rare reason": pages(CaptionFilter(reason="failed")),
        "a frequent flag": pages(CaptionFilter(flag="mismatch")),
        "a rare flag": pages(CaptionFilter(flag="unrelated_sources")),
        "the oldest run": pages(CaptionFilter(dag_run_id=old_run)),
        "the oldest run, frequent words": words("man", "street", dag_run_id=old_run),
        "the oldest run, a reason": pages(CaptionFilter(dag_run_id=old_run, reason="truncated")),
        "the oldest day": pages(CaptionFilter(day=day)),
        "an old shard": pages(CaptionFilter(shard=old_shard)),
        "a frequent range of a score": pages(CaptionFilter(score="novelty", score_max=0.1)),
        "a rare range of a score": pages(CaptionFilter(score="novelty", score_min=0.999)),
        "words of the raw caption": words("man", "street", within="raw"),
        "rare words of the raw caption": words(*rare, within="raw"),
        "facets of everything": counts(CaptionFilter(), CaptionFilter(verdict="accepted")),
        "facets of rejected": counts(CaptionFilter(verdict="rejected")),
        "facets of frequent words": counts(*(CaptionFilter(words=each) for each in ("man", "street", "white"))),
        "facets of rare words": counts(*(CaptionFilter(words=each) for each in rare)),
        "facets of a reason": counts(CaptionFilter(reason="truncated"), CaptionFilter(reason="failed")),
        "facets of a rare flag": counts(CaptionFilter(flag="unrelated_sources")),
        "facets of the oldest run": counts(CaptionFilter(dag_run_id=old_run)),
        "facets of an old shard": counts(CaptionFilter(shard=old_shard)),
        "facets of a rare range of a score": counts(CaptionFilter(score="novelty", score_min=0.999)),
        "one caption with its lineage": [lambda c: lineage(c, middle.pair_id, middle.fusion_id)] * repeat,
        "choices of the form": [lambda c: (choices.known_fusions(c), choices.newest_shards(c, 200))] * repeat,
        "trends": [trends] * repeat,
        "list of runs": [funnels.recent_runs] * repeat,
        "figures of a run": [lambda c: figures(c, RunKey(dag_run_id=old_run))] * repeat,
        "figures of everything": [lambda c: figures(c, RunKey())] * repeat,
    }


def loaded_rows(warehouse: Warehouse) -> int:
    with warehouse.engine.connect() as connection:
        return int(connection.scalar(text("select sum(rows_in) from capsfusion.work_units")) or 0)


def middle_row(connection: Connection) -> Position:
    half = text(
        "select loaded_at, pair_id, fusion_id from capsfusion.fused_captions where loaded_at >= "
        "(select percentile_disc(0.5) within group (order by loaded_at) from capsfusion.work_units) limit 1"
    )
    return Position(*connection.execute(half).one())


def old_shard_of(connection: Connection) -> str:
    oldest = text("select path from capsfusion.shards where side = 'laion_2b' order by arrived_at, path limit 1")
    return str(connection.scalar(oldest))


if __name__ == "__main__":
    main()
