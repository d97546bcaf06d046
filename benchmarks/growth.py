"""Measures a growing warehouse at several sizes: time and I/O of loads, disk space, and the captions view's queries.

    python -m benchmarks.growth [--rows 1000000 5000000 20000000] [--pairs FILE] [--set NAME=VALUE …] [--home DIR]

Loads runs of 100,000 generated captions with the pipeline's ``load_unit``, one after the other, with all indexes. Each
time the warehouse reaches one of the sizes ``--rows``, prints the time, CPU time and bytes for loading the last 500,000
rows, the size of all but tiny tables and indexes, and the milliseconds of the captions view's queries. The server is
the embedded PostgreSQL with fsync on; ``--set`` changes its settings. 20 million rows need about an hour on one core
and 40 GB of disk. With ``--home``, the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.explorer import RUN_ROWS, analyze, load_run, loaded_rows, show
from benchmarks.generated_units import UnitMaker
from benchmarks.warehouse import FUSION, new_warehouse
from benchmarks.workload import CAPTION, read_pairs
from capsfusion_tasks.warehouse import fusions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres, embedded_postgres

AVERAGED = 5  # when the warehouse reaches a size, print the averages of the last AVERAGED runs
_IO = """
select coalesce(sum(read_bytes), 0), coalesce(sum(write_bytes), 0) from pg_stat_io where object = 'relation'
"""
_SIZES = """
select 'table ' || relname, pg_table_size(oid)
from pg_class where relnamespace = 'capsfusion'::regnamespace and relkind = 'r'
union all
select indexrelid::regclass::text, pg_relation_size(indexrelid)
from pg_index join pg_class on oid = indexrelid where relnamespace = 'capsfusion'::regnamespace
order by 2 desc
"""
console = Console(width=120, highlight=False)
progress = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Counters:
    """Seconds, CPU seconds and bytes: what the loads of one run used, or the values of the counters at one moment."""

    seconds: float
    server_cpu: float
    client_cpu: float
    log_bytes: float
    read_bytes: float
    written_bytes: float

    def minus(self, before: Counters) -> Counters:
        return Counters(*(getattr(self, one.name) - getattr(before, one.name) for one in fields(self)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000, 20_000_000])
    parser.add_argument("--pairs", type=Path, help="file of pairs with fused captions (default: generated pairs)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="PostgreSQL setting to change")
    parser.add_argument("--sql", action="append", default=[], help="SQL to run before the first load (repeatable)")
    parser.add_argument("--home", type=Path, help="folder that keeps the warehouse; later calls add rows to it")
    parser.add_argument("--repeat", type=int, default=15, help="how often to run each query of the captions view")
    args = parser.parse_args()
    captions = read_pairs(args.pairs, 5000, CAPTION)
    with (
        tempfile.TemporaryDirectory(prefix="capsfusion-bench-") as scratch,
        embedded_postgres(args.home or Path(scratch), ["growth"]) as server,
        new_warehouse(server, "growth") as warehouse,
    ):
        change(warehouse, args.set, args.sql)
        with warehouse.engine.begin() as connection:
            fusions.register(connection, FUSION, {})
        for rows in args.rows:
            # The list of costs is empty if an earlier call with this --home has already loaded this many rows.
            if costs := grow(server, warehouse, captions, rows):
                print_costs(costs, rows)
            print_sizes(warehouse)
            analyze(warehouse)
            show(warehouse, args.repeat, "after loads")


def change(warehouse: Warehouse, settings: list[str], statements: list[str]) -> None:
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name, _, value in (setting.partition("=") for setting in settings):
            connection.execute(text(f"alter system set {name} = '{value}'"))
        connection.execute(text("select pg_reload_conf()"))
        for statement in statements:
            connection.execute(text(statement))


def grow(server: EmbeddedPostgres, warehouse: Warehouse, captions: Any, rows: int) -> list[Counters]:
    """Load runs until the tables have ``rows`` rows. Returns the time, CPU time and bytes of each run."""
    costs = []
    for run in range((loaded_rows(warehouse) + RUN_ROWS - 1) // RUN_ROWS, rows // RUN_ROWS):
        maker = UnitMaker(captions, seed=run)
        before = now(server, warehouse)
        seconds = load_run(warehouse, maker, run)
        cost = now(server, warehouse).minus(before)
        costs.append(Counters(seconds, *(getattr(cost, one.name) for one in fields(cost)[1:])))
        progress.print(f"{(run + 1) * RUN_ROWS:,} rows: {costs[-1]}", soft_wrap=True)
    return costs


def now(server: EmbeddedPostgres, warehouse: Warehouse) -> Counters:
    postmaster = psutil.Process(int((server.data / "postmaster.pid").read_text().split("\n", 1)[0]))
    times = postmaster.cpu_times()
    # The times children_user and children_system are those of sessions that have ended.
    cpu = times.user + times.system + times.children_user + times.children_system
    for child in postmaster.children():
        # If a child ends before its times are read here, the children_… times of the postmaster include the child's
        # times at the next call of this function.
        with suppress(psutil.NoSuchProcess):
            cpu += sum(child.cpu_times()[:2])
    with warehouse.engine.connect() as connection:
        log = connection.scalar(text("select wal_bytes from pg_stat_wal"))
        read, written = connection.execute(text(_IO)).one()
    return Counters(time.perf_counter(), cpu, time.process_time(), float(log or 0), float(read), float(written))


def print_costs(costs: list[Counters], rows: int) -> None:
    table = Table(title=f"loading, the last {min(AVERAGED, len(costs)) * RUN_ROWS:,} of {rows:,} rows")
    for heading in (
        "",
        "rows/s",
        "µs/row",
        "server CPU µs",
        "client CPU µs",
        "WAL B/row",
        "read B/row",
        "written B/row",
    ):
        table.add_column(heading, justify="right")
    groups = {"all": costs, "last": costs[-AVERAGED:], "worst": sorted(costs, key=lambda one: one.seconds)[-1:]}
    for name, group in groups.items():
        per_row = [sum(getattr(one, field.name) for one in group) / len(group) / RUN_ROWS for field in fields(Counters)]
        times, bytes_ = per_row[:3], per_row[3:]
        figures = [f"{1e6 * one:.1f}" for one in times] + [f"{one:,.0f}" for one in bytes_]
        table.add_row(name, f"{1 / per_row[0]:,.0f}", *figures)
    console.print(table)


def print_sizes(warehouse: Warehouse) -> None:
    rows = loaded_rows(warehouse)
    table = Table(title=f"bytes, {rows:,} rows")
    for heading in ("what", "MB", "bytes per loaded row"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    with warehouse.engine.connect() as connection:
        sizes = [(name, int(size)) for name, size in connection.execute(text(_SIZES))]
    for name, size in [*(one for one in sizes if one[1] > rows // 10), ("everything", sum(size for _, size in sizes))]:
        table.add_row(name, f"{size / 1e6:,.0f}", f"{size / rows:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
