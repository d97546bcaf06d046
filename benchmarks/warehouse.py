"""Measures how fast rows are loaded into a growing warehouse, compared with a plain insert of as many rows.

    python -m benchmarks.warehouse [--pairs FILE] [--rows 100000 500000] [--unit-rows 10000] [--indexes]

- load: the pipeline's ``load_unit``.
- raw, the baseline: ADBC's ingest into a temporary table, then ``insert … on conflict do nothing``. This baseline makes
  no checks and does not mark units as loaded.

``--rows`` are the sizes of the table at which loads are measured. Each repetition loads three units (batches of rows):
one with each method, and one with ``load_unit`` into a second warehouse, whose table has the first of these sizes. The
three loads alternate, so other work of the machine slows all of them equally. Medians are printed. The last two columns
are the time per row of ``load_unit`` divided by its time per row in the second warehouse: once with medians, once with
means. Only means include the few units that take longer because the text index adds its new words then.

The server is the embedded PostgreSQL with its default settings and fsync on. With ``--indexes``, all indexes except the
primary keys are dropped, then created one at a time to measure the cost of each. The line ``validate`` is the rate at
which one core validates the same captions.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.generated_units import UnitMaker
from benchmarks.workload import CAPTION, read_pairs
from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import VALIDATED, Unit
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.validation.validate import validate_table
from capsfusion_tasks.warehouse import fusions, ledger
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres, embedded_postgres
from capsfusion_tasks.warehouse.load import load_unit

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
FUSION_ID = "generated"
FUSION = Decoding(
    fusion_id=FUSION_ID,
    model="benchmark",
    model_revision="",
    location="bundled",
    model_digest="m",
    prompt_digest="p",
    tokenizer_digest="t",
    engine="native",
    dtype="bfloat16",
    eos_ids=(2,),
    num_beams=3,
    max_new_tokens=80,
)
console = Console(width=120, highlight=False)


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="file of pairs with fused captions (default: generated pairs)")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 500_000], help="sizes of the table, in rows")
    parser.add_argument("--unit-rows", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=9, help="number of units to load with each method at each size")
    parser.add_argument("--indexes", action="store_true", help="also measure the time that each index adds per row")
    args = parser.parse_args()

    captions = read_pairs(args.pairs, 5000, CAPTION)
    maker = UnitMaker(captions)
    with (
        tempfile.TemporaryDirectory(prefix="capsfusion-bench-") as home,
        embedded_postgres(Path(home), ["small", "large"]) as server,
        new_warehouse(server, "small") as small,
        new_warehouse(server, "large") as large,
    ):
        growing = Growth(large, maker, args.unit_rows)
        measure_growth(growing, Growth(small, maker, args.unit_rows), args.rows, args.repeat)
        if args.indexes:
            measure_indexes(growing, args.repeat)
    measure_validation(captions, args.repeat)


def new_warehouse(server: EmbeddedPostgres, database: str) -> AbstractContextManager[Warehouse]:
    url = server.url(database).render_as_string(hide_password=False)
    return open_warehouse(load_settings(warehouse_url=url), migrate=True)


class Growth:
    """A warehouse that grows by units of generated rows."""

    def __init__(self, warehouse: Warehouse, maker: UnitMaker, unit_rows: int) -> None:
        self.warehouse, self._maker, self._unit_rows = warehouse, maker, unit_rows
        self._units = self.rows = 0
        with warehouse.engine.begin() as connection:
            fusions.register(connection, FUSION, {})

    def time_unit(self, load: Callable[[Warehouse, str, pa.Table], object]) -> float:
        """Generate a unit, and load it with ``load``. Returns microseconds per row."""
        rows, unit_id = self._maker.unit(self._unit_rows), f"unit-{self._units:06}"
        with self.warehouse.engine.begin() as connection:
            unit = Unit(unit_id=unit_id, fusion_id=FUSION_ID, rows=rows.num_rows, tokens=0)
            ledger.register_units(connection, [unit], DAY)
        started = time.perf_counter()
        load(self.warehouse, unit_id, rows)
        seconds = time.perf_counter() - started
        self._units += 1
        self.rows += rows.num_rows
        return 1e6 * seconds / self._unit_rows

    def grow_to(self, rows: int) -> None:
        while self.rows < rows:
            self.time_unit(load_raw)

    def empty(self) -> None:
        with self.warehouse.engine.begin() as connection:
            connection.execute(text("truncate capsfusion.fused_captions, capsfusion.rejected_captions"))
        self.rows = 0


def load_raw(warehouse: Warehouse, unit_id: str, rows: pa.Table, fusion_id: str = FUSION_ID) -> None:
    rows = rows.set_column(0, "pair_id", rows["pair_id"].cast(pa.uuid()))
    with adbc.connect(warehouse.adbc_uri, autocommit=False) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("incoming", rows, mode="create", temporary=True)
        for table, condition in (("fused_captions", "reasons = '{}'"), ("rejected_captions", "reasons <> '{}'")):
            names = ", ".join(n for n in VALIDATED.names if n != "reasons" or table == "rejected_captions")
            cursor.execute(
                f"insert into capsfusion.{table} ({names}, fusion_id, unit_id)"  # noqa: S608
                f" select {names}, $1, $2 from incoming where {condition} on conflict do nothing",
                (fusion_id, unit_id),
            )
        connection.commit()


def measure_growth(growing: Growth, small: Growth, sizes: Sequence[int], repeat: int) -> None:
    """At each of ``sizes``, load units into ``growing`` with ``load_unit`` and with ``load_raw``.

    For comparison, also loads units into ``small``, whose table has the first of ``sizes``.
    """
    table = Table(title="loading, by rows in the table")
    for heading in (
        "rows in the table",
        "load rows/s",
        "raw rows/s",
        "load / raw",
        f"µs/row relative to {sizes[0]:,}",
        "the same, of means",
    ):
        table.add_column(heading, justify="right")
    for size in sizes:
        growing.grow_to(size)
        small.empty()
        small.grow_to(sizes[0])
        turns = [
            (growing.time_unit(load_unit), growing.time_unit(load_raw), small.time_unit(load_unit))
            for _ in range(repeat)
        ]
        load, raw, first = (statistics.median(times) for times in zip(*turns, strict=True))
        mean, _, mean_first = (statistics.mean(times) for times in zip(*turns, strict=True))
        growth = f"{load / first:.2f}", f"{mean / mean_first:.2f}"
        figures = f"{1e6 / load:,.0f}", f"{1e6 / raw:,.0f}", f"{raw / load:.2f}", *growth
        table.add_row(f"{size:,}", *figures)
        Console(stderr=True).print(f"{size:,} rows: {load:.0f} µs/row, raw {raw:.0f}, first size {first:.0f}")
    console.print(table)


def measure_indexes(growth: Growth, repeat: int) -> None:
    """Print the time per row that each index of accepted captions adds to a table with only its primary key."""
    definitions = drop_indexes(growth.warehouse)
    table = Table(title=f"what an index costs, at {growth.rows:,} rows")
    for heading in ("index", "µs/row", "relative to none"):
        table.add_column(heading, justify="left" if heading == "index" else "right")
    for name, definition in definitions.items():
        without = statistics.median(growth.time_unit(load_unit) for _ in range(repeat))
        with growth.warehouse.engine.begin() as connection:
            connection.execute(text(definition))
        cost = statistics.median(growth.time_unit(load_unit) for _ in range(repeat)) - without
        table.add_row(name, f"{cost:.1f}", f"{cost / without:.0%}")
        with growth.warehouse.engine.begin() as connection:
            connection.execute(text(f"drop index capsfusion.{name}"))
    console.print(table)


def drop_indexes(warehouse: Warehouse) -> dict[str, str]:
    """Drop all indexes of both caption tables except primary keys.

    Returns the dropped indexes of accepted captions: name → definition.
    """
    definitions: dict[str, str] = {}
    with warehouse.engine.begin() as connection:
        for captions in (fused_captions, rejected_captions):
            for name in sorted(str(index.name) for index in captions.indexes):
                found = connection.scalar(text(f"select pg_get_indexdef('capsfusion.{name}'::regclass)"))
                connection.execute(text(f"drop index capsfusion.{name}"))
                if captions is fused_captions:
                    definitions[name] = str(found)
    return definitions


def measure_validation(captions: Sequence[tuple[str, ...]], repeat: int) -> None:
    columns = zip(*captions, strict=True)
    rows = pa.table(dict(zip(("laion_2b", "laion_coco", "capsfusion"), columns, strict=True)))
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        validate_table(rows)
        times.append(time.perf_counter() - started)
    console.print(f"validate: {rows.num_rows / statistics.median(times):,.0f} rows/s on one core")


if __name__ == "__main__":
    main()
