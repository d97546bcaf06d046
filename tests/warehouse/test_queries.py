"""Tests the queries for reports and for `capsfusion status`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, text

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Replay, Shard, Unit
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.caption_tables import rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.queries import (
    Scope,
    SideSummary,
    failed_shards,
    failed_units,
    rejections_by_reason,
    run_summary,
    sample_captions,
    shards_summary,
    unit_counts,
)
from tests.warehouse.conftest import DAY, plan, rows

COLUMNS = ", ".join(rejected_captions.columns.keys())
NEXT_DAY = Interval(start=datetime(2026, 11, 11, tzinfo=UTC), end=datetime(2026, 11, 12, tzinfo=UTC))


@pytest.fixture
def two_days(warehouse: Warehouse, connection: Connection) -> Warehouse:
    """A warehouse with units of two days. On day one, u1 is loaded and u2 has failed. On day two, u3 is loaded."""
    plan(warehouse, ("u1", 3), ("u2", 5))
    plan(warehouse, ("u3", 2), interval=NEXT_DAY)
    for unit_id, seconds in (("u1", 1.5), ("u3", 0.5)):
        ledger.unit_started(connection, unit_id)
        stats = {"gpu_seconds": seconds, "prompt_tokens": 100, "caption_tokens": 10}
        ledger.unit_fused(connection, unit_id, stats)
    load_unit(warehouse, "u1", rows(1, 2, 3, rejected={2: ["loop", "short"]}))
    load_unit(warehouse, "u3", rows(4, 5, rejected={4: ["loop"]}))
    ledger.unit_failed(connection, "u2", "out of memory")
    return warehouse


def test_summary_of_everything_and_of_a_day(two_days: Warehouse, connection: Connection) -> None:
    total = run_summary(connection)
    assert (total.units, total.rows_in, total.accepted, total.rejected, total.waiting) == (3, 10, 3, 2, 5)
    assert (total.prompt_tokens, total.caption_tokens, total.gpu_seconds, total.rows_per_second) == (200, 20, 2.0, 2.5)
    day = run_summary(connection, Scope(interval=DAY))
    assert (day.units, day.accepted, day.rejected, day.waiting, day.rows_per_second) == (2, 2, 1, 5, 2.0)
    nothing = run_summary(connection, Scope(dag_run_id="run 2"))
    assert (nothing.units, nothing.rows_in, nothing.rows_per_second) == (0, 0, None)


def test_captions_that_are_only_validated_again_are_neither_timed_nor_counted_twice(
    two_days: Warehouse, connection: Connection
) -> None:
    before = run_summary(connection)
    stats = {"gpu_seconds": 0.5, "prompt_tokens": 100, "caption_tokens": 10}
    for name, existing in (("judged", "skip"), ("replaced", "replace")):
        unit = Unit(unit_id=name, fusion_id="f1", rows=2, tokens=200)
        ledger.register_units(connection, [unit], Replay(name=name, fusion_id="f1"), existing=existing)
    ledger.unit_fused(connection, "judged", stats)
    judged = run_summary(connection)
    assert (judged.rows_in, judged.gpu_seconds) == (before.rows_in + 4, before.gpu_seconds + 0.5)
    assert (judged.prompt_tokens, judged.caption_tokens, judged.rows_per_second) == (200, 20, 2.5)
    assert run_summary(connection, Scope(replay="judged")).rows_per_second is None
    # A replay that replaces captions fuses all its rows, even under the fusion of these captions.
    ledger.unit_fused(connection, "replaced", stats)
    replaced = run_summary(connection)
    assert (replaced.prompt_tokens, replaced.caption_tokens, replaced.rows_per_second) == (300, 30, 7 / 2.5)


def test_units_by_state(two_days: Warehouse, connection: Connection) -> None:
    assert unit_counts(connection) == {"planned": 0, "fusing": 0, "fused": 0, "loaded": 2, "failed": 1}
    assert unit_counts(connection, Scope(unit_ids=["u2"]))["failed"] == 1
    assert failed_units(connection) == [("u2", 0, "out of memory")]
    assert failed_units(connection, Scope(interval=NEXT_DAY)) == []


def test_rejections_by_reason(two_days: Warehouse, connection: Connection) -> None:
    assert list(rejections_by_reason(connection).items()) == [("loop", 2), ("short", 1)]
    assert rejections_by_reason(connection, Scope(interval=NEXT_DAY)) == {"loop": 1}
    assert rejections_by_reason(connection, Scope(fusion_id="f2")) == {}


def test_samples_are_the_same_at_every_call(two_days: Warehouse, connection: Connection) -> None:
    sample = sample_captions(connection, 2)
    assert sample == sample_captions(connection, 2)
    assert len(sample) == 2
    assert {row.capsfusion for row in sample_captions(connection, 9, ["u1"])} == {"capsfusion 1", "capsfusion 3"}
    assert sample_captions(connection, 9, []) == []


def test_shards_by_side(connection: Connection) -> None:
    common = {"source": "/data", "etag": "e", "size_bytes": 1, "arrived_at": DAY.start}
    found = [
        Shard(shard_id=f"{side}{n}", side=side, path=f"{side}/{n}", **common)  # type: ignore[arg-type]
        for side in ("laion_2b", "laion_coco")
        for n in range(2)
    ]
    ledger.record_shards(connection, found)
    ledger.shard_pulled(connection, "laion_2b0", 10, {"no caption": 2})
    ledger.shard_pulled(connection, "laion_2b1", 20, {"no caption": 1, "unsafe": 4})
    ledger.shard_failed(connection, "laion_coco1", "cut short")
    assert shards_summary(connection) == {
        "laion_2b": SideSummary(2, 2, 0, 30, {"no caption": 3, "unsafe": 4}),
        "laion_coco": SideSummary(2, 0, 1, 0, {}),
    }
    assert shards_summary(connection, ["laion_2b0"]) == {"laion_2b": SideSummary(1, 1, 0, 10, {"no caption": 2})}
    assert failed_shards(connection) == [("laion_coco", "laion_coco/1", "cut short")]
    assert failed_shards(connection, ["laion_2b0"]) == []


@pytest.mark.parametrize(
    ("harm", "broken"),
    [
        (
            "delete from capsfusion.fused_captions where laion_hash = 1",
            "each row of a unit is stored, replayed or superseded",
        ),
        (
            "update capsfusion.work_units set state = 'fused' where unit_id = 'u3'",
            "each row of a unit is stored, replayed or superseded",
        ),
        (
            "alter table capsfusion.work_units drop constraint work_units_rows_add_up_check;"
            "update capsfusion.work_units set accepted = null where unit_id = 'u1'",
            "each row of a loaded unit is accepted or rejected",
        ),
        (
            "update capsfusion.rejected_captions r set pair_id = f.pair_id from capsfusion.fused_captions f"
            " where f.laion_hash = 1 and r.laion_hash = 2",
            "a pair is accepted or rejected, not both",
        ),
        (
            f"insert into capsfusion.replayed_captions ({COLUMNS}, replayed_by)"
            f" select {COLUMNS}, 'u1' from capsfusion.rejected_captions limit 1;"
            "update capsfusion.work_units set superseded = superseded - 1"
            " where unit_id = (select unit_id from capsfusion.replayed_captions)",
            "a caption is rejected or replayed, not both",
        ),
    ],
)
def test_harm_is_found(two_days: Warehouse, connection: Connection, harm: str, broken: str) -> None:
    assert violations(connection) == []
    for statement in harm.split(";"):
        connection.execute(text(statement))
    assert {violation.rule for violation in violations(connection)} == {broken}
