"""Fixtures and functions for tests of the warehouse: a migrated warehouse, planned units, and rows to load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Connection, text

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import VALIDATED, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import fusions, ledger
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
FUSION = Decoding(
    fusion_id="f1",
    model="demo",
    model_revision="",
    location="bundled",
    model_digest="m",
    prompt_digest="p",
    tokenizer_digest="t",
    engine="transformers",
    dtype="float32",
    eos_ids=(2,),
    num_beams=3,
    max_new_tokens=80,
)


@pytest.fixture
def settings(warehouse_url: str) -> Settings:
    return Settings(warehouse_url=warehouse_url)


@pytest.fixture
def warehouse(settings: Settings) -> Iterator[Warehouse]:
    with open_warehouse(settings) as opened:
        yield opened


@pytest.fixture
def connection(warehouse: Warehouse) -> Iterator[Connection]:
    """A connection in autocommit mode."""
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as opened:
        yield opened


def plan(
    warehouse: Warehouse,
    *units: tuple[str, int],
    fusion_id: str = "f1",
    interval: Interval = DAY,
    dag_run_id: str = "run 1",
) -> None:
    """Register planned units, given as (unit_id, number of rows), and their fusion."""
    planned = [Unit(unit_id=unit_id, fusion_id=fusion_id, rows=rows, tokens=100 * rows) for unit_id, rows in units]
    with warehouse.engine.begin() as connection:
        fusions.register(connection, FUSION.model_copy(update={"fusion_id": fusion_id}), {})
        ledger.register_units(connection, planned, interval, dag_run_id)


def pair_id(number: int) -> bytes:
    return md5(str(number).encode()).digest()  # noqa: S324


def rows(*numbers: int, rejected: dict[int, list[str]] | None = None, **changes: Any) -> pa.Table:
    """Validated rows of pairs ``numbers``. ``rejected``: number → reasons. ``changes``: column → value of all rows."""

    def row(number: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for field in VALIDATED:
            if pa.types.is_string(field.type):
                made[field.name] = f"{field.name} {number}"
            elif pa.types.is_floating(field.type):
                made[field.name] = 0.5
            else:
                made[field.name] = number
        made |= {"pair_id": pair_id(number), "reasons": (rejected or {}).get(number, []), "flags": []}
        return made | changes

    return pa.Table.from_pylist([row(number) for number in numbers], schema=VALIDATED)


def in_threads(*calls: Callable[[], object]) -> list[object]:
    """Run ``calls`` at the same time. Returns the result or the exception of each, in the order in which they end."""
    results: list[object] = []

    def run(call: Callable[[], object]) -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@contextmanager
def merge_held(warehouse: Warehouse) -> Iterator[None]:
    """Within the block, every load for the fusion f1 waits after its COPY, before it merges rows into the tables."""
    with warehouse.engine.begin() as connection:
        connection.execute(text("select pg_advisory_xact_lock(hashtextextended('capsfusion.load f1', 0))"))
        yield
