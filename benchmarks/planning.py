"""Measures the duration and the longest transaction of planning when many units (batches of pairs) are unfinished.

    python -m benchmarks.planning [--rows 500000] [--units 64] [--unit-rows 180000] [--buckets 2048]

The staging area (the folder for files between stages) has the pairs of one data interval (the time range of a run):
``--rows`` pairs in ``--buckets`` files. It also has ``--units`` planned units of other intervals. Each unit has
``--unit-rows`` pairs, from all buckets. A tenth of the interval's pairs is in these units, and another tenth is among
the ``--loaded`` captions of the warehouse, which is the embedded PostgreSQL.

Two methods are measured. ``plan`` is the task that makes units. It must leave out exactly these two tenths, because
their pairs are planned or loaded already. ``estimate`` is what `capsfusion plan` does: it counts the same pairs and
plans nothing. Every 5 ms, the benchmark reads the age of the oldest open transaction of the database.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, func, text, update

from benchmarks.generated_units import UnitMaker
from benchmarks.warehouse import load_raw
from benchmarks.workload import CAPTION, read_pairs
from capsfusion_tasks.context import Context, open_context
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning import forecast
from capsfusion_tasks.planning.in_flight import BUCKETS_KEY
from capsfusion_tasks.schemas import PAIRS, Unit
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.tasks import interval_tasks
from capsfusion_tasks.warehouse import fusions, ledger
from capsfusion_tasks.warehouse.ledger_tables import work_units

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
UNIT_LOADED = 50_000  # captions that each insert adds to the warehouse
POLL_SECONDS = 0.005


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="number of pairs in the interval")
    parser.add_argument("--units", type=int, default=64, help="number of unfinished units of other intervals")
    parser.add_argument("--unit-rows", type=int, default=180_000)
    parser.add_argument("--buckets", type=int, default=2048)
    parser.add_argument("--loaded", type=int, default=300_000, help="number of captions in the warehouse")
    parser.add_argument("--pairs", type=Path, help="file of pairs with fused captions (default: generated pairs)")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="capsfusion-bench-") as home:
        settings = load_settings(home=Path(home), buckets=args.buckets)
        with open_context(settings) as context:
            expected = _prepare(context, args)
            table = Table(title=f"{args.rows:,} pairs, {args.units} unfinished units, {os.cpu_count()} cores")
            for heading in ("method", "s", "CPU s", "longest transaction, s", "new pairs"):
                table.add_column(heading, justify="left" if heading == "method" else "right")
            with polled(context.warehouse.engine) as estimated:
                work = forecast.estimate(context).work["paired, not planned"]
            with polled(context.warehouse.engine) as planned:
                units = interval_tasks.plan(context, DAY)
            found = sum(unit.rows for unit in units)
            if {work.rows, found} != {expected}:
                raise RuntimeError(
                    f"the estimate counts {work.rows} new pairs and the plan has {found}; expected {expected} in both"
                )
            for name, cost in {"estimate": estimated, "plan": planned}.items():
                figures = f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", f"{cost.longest_transaction:.2f}"
                table.add_row(name, *figures, f"{found:,}")
    console = Console(width=110)
    console.print(table)
    console.print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


@dataclass
class Cost:
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # CPU time of this process, without PostgreSQL's
    longest_transaction: float = 0.0


@contextmanager
def polled(engine: Engine) -> Iterator[Cost]:
    """Measure how long the block takes, and the longest time that any transaction of the database is open meanwhile."""
    cost, ended = Cost(), threading.Event()
    oldest = text(
        "select coalesce(max(extract(epoch from clock_timestamp() - xact_start)), 0) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )

    def poll() -> None:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not ended.wait(POLL_SECONDS):
                cost.longest_transaction = max(cost.longest_transaction, float(connection.scalar(oldest) or 0))

    poller = threading.Thread(target=poll)
    poller.start()
    started, cpu_before = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds, cost.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
        ended.set()
        poller.join()


def _prepare(context: Context, args: argparse.Namespace) -> int:
    """Write the interval's pairs, the unfinished units and the loaded captions.

    Returns how many of the interval's pairs are new, which means neither in a unit nor loaded.
    """
    storage, engine, fusion_id = context.storage, context.warehouse.engine, context.decoding.fusion_id
    storage.write_json(layout.BUCKETS_CONFIG, {"buckets": args.buckets})
    storage.write_json(layout.discovered(DAY), {"frozen": True, "shards": []})
    rng, captions = np.random.default_rng(0), read_pairs(args.pairs, 5000, CAPTION)
    ids = rng.integers(0, 2**63, (args.rows, 2), np.int64).view("V16").ravel()
    in_flight, loaded = args.rows // 10, args.rows // 10

    buckets = [layout.bucket_name(bucket) for bucket in range(args.buckets)]
    raws, synthetics = (pa.array([pair[side] for pair in captions]) for side in (0, 1))
    for bucket, mine in zip(buckets, np.array_split(rng.permutation(args.rows), args.buckets), strict=True):
        texts = pa.array(rng.integers(0, len(captions), len(mine)))
        pairs = _pairs(np.sort(ids[mine]), raws.take(texts), synthetics.take(texts))
        storage.write_table(f"{layout.pairs_folder(DAY)}/{bucket}.parquet", pairs)

    units = []
    for number, shared in enumerate(np.array_split(ids[:in_flight], args.units)):
        own = rng.integers(0, 2**63, (args.unit_rows - len(shared), 2), np.int64).view("V16").ravel()
        rows = np.concatenate([shared, own])
        unit = Unit(unit_id=f"bench-{number:05}", fusion_id=fusion_id, rows=len(rows), tokens=len(rows) * 200)
        few = pa.repeat("a caption", len(rows))
        storage.write_table(layout.unit_pairs(unit.unit_id), _pairs(rows, few, few), {BUCKETS_KEY: " ".join(buckets)})
        units.append(unit)
    with engine.begin() as connection:
        fusions.register(connection, context.decoding, {})
        for day, unit in enumerate(units):
            other = Interval(start=DAY.start - timedelta(days=day + 1), end=DAY.end - timedelta(days=day + 1))
            ledger.register_units(connection, [unit], other)
    _load(context, UnitMaker(captions), ids[in_flight : in_flight + loaded], max(args.loaded, loaded))
    new: int = args.rows - in_flight - loaded
    return new


def _pairs(ids: np.ndarray, raws: pa.Array, synthetics: pa.Array) -> pa.Table:
    rows = len(ids)
    columns = {
        "pair_id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), rows, [None, pa.py_buffer(ids.tobytes())]),
        "laion_2b": raws,
        "laion_coco": synthetics,
    }
    for field in PAIRS:
        if field.name not in columns:
            zero = "a" if pa.types.is_string(field.type) else pa.scalar(0, field.type)
            columns[field.name] = pa.repeat(zero, rows)
    return pa.table({field.name: columns[field.name] for field in PAIRS}, schema=PAIRS)


def _load(context: Context, maker: UnitMaker, ids: np.ndarray, rows: int) -> None:
    """Insert ``rows`` captions into the warehouse. The first captions get the pair ids ``ids``."""
    fusion_id, loaded = context.decoding.fusion_id, 0
    while loaded < rows:
        table = maker.unit(UNIT_LOADED)
        mine = ids[loaded : loaded + UNIT_LOADED]
        some = np.frombuffer(table["pair_id"].combine_chunks().buffers()[1], "V16").copy()
        some[: len(mine)] = mine
        pair_ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(some), [None, pa.py_buffer(some.tobytes())])
        unit = Unit(unit_id=f"loaded-{loaded:09}", fusion_id=fusion_id, rows=len(some), tokens=0)
        other = Interval(start=DAY.start - timedelta(days=400), end=DAY.end - timedelta(days=400))
        with context.warehouse.engine.begin() as connection:
            ledger.register_units(connection, [unit], other)
        load_raw(context.warehouse, unit.unit_id, table.set_column(0, "pair_id", pair_ids), fusion_id)
        with context.warehouse.engine.begin() as connection:
            connection.execute(
                update(work_units)
                .where(work_units.c.unit_id == unit.unit_id)
                .values(state="loaded", accepted=0, rejected=len(some), loaded_at=func.now())
            )
        loaded += len(some)


if __name__ == "__main__":
    main()
