"""Tests the ledger of shards and work units."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from sqlalchemy import Connection, select, text

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.ledger_tables import shards, work_units
from capsfusion_tasks.warehouse.load import load_unit
from tests.warehouse.conftest import DAY, in_threads, pair_id, plan, rows

SHARD = Shard(
    shard_id="s1",
    side="laion_2b",
    source="/data",
    path="part-0.parquet",
    etag="e1",
    size_bytes=123,
    arrived_at=datetime(2026, 11, 10, 5, tzinfo=UTC),
)


def test_a_shard_keeps_its_row_when_it_is_seen_again(connection: Connection) -> None:
    ledger.record_shards(connection, [])
    ledger.record_shards(connection, [SHARD])
    ledger.shard_pulled(connection, "s1", rows=10, dropped={"no caption": 2})
    before = connection.execute(select(shards)).mappings().one()
    ledger.record_shards(connection, [SHARD, SHARD.model_copy(update={"shard_id": "s2", "etag": "e2"})])
    after = connection.execute(select(shards).where(shards.c.shard_id == "s1")).mappings().one()
    assert {**before, "seen_at": None} == {**after, "seen_at": None}
    assert after["seen_at"] > before["seen_at"]
    assert (after["state"], after["rows"], after["dropped"]) == ("pulled", 10, {"no caption": 2})
    assert connection.scalar(select(shards.c.state).where(shards.c.shard_id == "s2")) == "discovered"


# Makes every insert of a shard pause between the check for conflicts and the write to the unique indexes. An index that
# calls pause() does this. Indexes are written in the order of their creation, so the unique indexes are created again
# after the pausing index.
SLOW_INSERTS = """
    create function pause(text) returns text language plpgsql immutable as
        $$ begin perform pg_sleep(0.2); return $1; end $$;
    create index on capsfusion.shards (pause(shard_id));
    alter table capsfusion.shards drop constraint shards_pkey, add primary key (source, path, etag);
    alter table capsfusion.shards drop constraint shards_shard_id_key, add unique (shard_id);
"""


def test_of_runs_that_insert_a_late_shard_at_the_same_time_one_gets_it(
    warehouse: Warehouse, connection: Connection
) -> None:
    connection.execute(text(SLOW_INSERTS))

    def claim(day: Interval) -> set[str]:
        with warehouse.engine.begin() as own:
            return ledger.claim_late(own, [SHARD], day)

    following = Interval(start=DAY.end, end=DAY.end + (DAY.end - DAY.start))
    assert sorted(in_threads(lambda: claim(DAY), lambda: claim(following)), key=str) == [set(), {"s1"}]


def test_a_failed_shard_shows_its_error_until_it_is_pulled(connection: Connection) -> None:
    ledger.record_shards(connection, [SHARD])
    ledger.shard_failed(connection, "s1", "not Parquet: \x00")
    assert connection.execute(select(shards.c.state, shards.c.error)).one() == ("failed", "not Parquet: \ufffd")
    ledger.shard_pulled(connection, "s1", rows=1, dropped={})
    assert connection.execute(select(shards.c.state, shards.c.error)).one() == ("pulled", None)


def test_a_unit_goes_its_way(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 2))
    plan(warehouse, ("u1", 99), ("u2", 3))  # u1 is planned again, which must not change it; u2 is new
    assert ledger.unit_states(connection, ["u1", "u2", "unknown"]) == {"u1": "planned", "u2": "planned"}
    ledger.unit_started(connection, "u1")
    ledger.unit_failed(connection, "u1", "out of memory")
    ledger.unit_started(connection, "u1")
    assert ledger.unit_states(connection, ["u1"]) == {"u1": "fusing"}
    ledger.unit_fused(connection, "u1", {"gpu_seconds": 1.5, "prompt_tokens": 7, "ranks": 2})
    row = connection.execute(select(work_units).where(work_units.c.unit_id == "u1")).mappings().one()
    assert (row["state"], row["tries"], row["rows_in"], row["error"]) == ("fused", 2, 2, None)
    assert (row["gpu_seconds"], row["prompt_tokens"], row["rows_per_second"]) == (1.5, 7, None)
    assert row["stats"] == {"gpu_seconds": 1.5, "prompt_tokens": 7, "ranks": 2}
    assert ledger.open_units(connection, "f1") == ["u1", "u2"]


def test_a_loaded_unit_is_never_taken_back(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 2), ("u2", 1))
    load_unit(warehouse, "u1", rows(1, 2))
    before = connection.execute(select(work_units).where(work_units.c.unit_id == "u1")).one()
    ledger.unit_started(connection, "u1")
    ledger.unit_fused(connection, "u1", {"gpu_seconds": 1.0})
    ledger.unit_failed(connection, "u1", "late")
    plan(warehouse, ("u1", 2))
    assert connection.execute(select(work_units).where(work_units.c.unit_id == "u1")).one() == before
    assert ledger.open_units(connection, "f1") == ["u2"]
    assert ledger.open_units(connection, "another") == []


def test_what_the_ledger_does_not_have_is_named(connection: Connection) -> None:
    with pytest.raises(InputError, match="no work unit u9"):
        ledger.unit_started(connection, "u9")
    with pytest.raises(InputError, match="no shard s9"):
        ledger.shard_failed(connection, "s9", "gone")


@pytest.mark.parametrize("chunked", [False, True])
def test_known_pairs_are_those_of_both_tables_under_the_fusion(warehouse: Warehouse, chunked: bool) -> None:
    plan(warehouse, ("u1", 3))
    plan(warehouse, ("v1", 1), fusion_id="f2")
    load_unit(warehouse, "u1", rows(1, 2, 3, rejected={2: ["loop"]}))
    load_unit(warehouse, "v1", rows(9))
    asked = pa.array([pair_id(n) for n in (9, 3, 4, 2, 3)], pa.binary(16))
    candidates = pa.chunked_array([asked[:2], asked[2:]]) if chunked else asked
    with ledger.planning_lock(warehouse.engine, "f1") as session:
        assert known_pairs(session.transaction, "f1", candidates).to_pylist() == [False, True, False, True, True]
        assert known_pairs(session.transaction, "f2", candidates).to_pylist() == [True, False, False, False, False]
        assert known_pairs(session.transaction, "f1", asked[:0]).to_pylist() == []


def test_many_pairs_are_looked_up_at_once(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 2))
    load_unit(warehouse, "u1", rows(5, 40_000))
    candidates = pa.array([pair_id(n) for n in range(50_000)], pa.binary(16))
    known = known_pairs(warehouse.engine.begin, "f1", candidates)
    assert [n for n, is_known in enumerate(known.to_pylist()) if is_known] == [5, 40_000]


def test_planning_is_serial_per_fusion(warehouse: Warehouse) -> None:
    order: list[str] = []

    def other_planner(fusion_id: str) -> None:
        with ledger.planning_lock(warehouse.engine, fusion_id):
            order.append(fusion_id)

    with ledger.planning_lock(warehouse.engine, "f1"):
        threads = [threading.Thread(target=other_planner, args=[fusion_id]) for fusion_id in ("f1", "f2")]
        for thread in threads:
            thread.start()
        threads[1].join(30)
        time.sleep(0.2)
        order.append("first f1")
    for thread in threads:
        thread.join(30)
    assert order == ["f2", "first f1", "f1"]


def test_more_units_are_looked_up_than_a_statement_has_parameters(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 2), ("u2", 3))
    ids = ["u1", "u2", *(f"other {number}" for number in range(65_535))]
    with warehouse.engine.connect() as connection:
        assert ledger.planned_rows(connection, ids) == 5
        assert ledger.planned_rows(connection, []) == 0
        assert ledger.unit_states(connection, ids) == {"u1": "planned", "u2": "planned"}
        assert [unit.unit_id for unit in ledger.units(connection, ids)] == ["u1", "u2"]


def test_units_of_an_interval_come_back_with_their_state(warehouse: Warehouse) -> None:
    plan(warehouse, ("u2", 3), ("u1", 2))
    plan(warehouse, ("v1", 1), fusion_id="f2")
    load_unit(warehouse, "u1", rows(1, 2))
    with warehouse.engine.connect() as connection:
        found = ledger.units_of(connection, "f1", DAY)
        assert sorted((unit.unit_id, unit.rows, unit.tokens, state) for unit, state, *_ in found) == [
            ("u1", 2, 200, "loaded"),
            ("u2", 3, 300, "planned"),
        ]
        assert ledger.units_of(connection, "f1", Interval(start=DAY.end, end=datetime(2026, 12, 1, tzinfo=UTC))) == []
