"""Tests the rates of fused units and the work that is planned, both read from the ledger."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from capsfusion_tasks.schemas import Replay, Unit
from capsfusion_tasks.warehouse import ledger, rates
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.load import load_unit
from tests.warehouse.conftest import DAY, plan, rows
from tests.warehouse.test_queries import NEXT_DAY


def fuse(connection: Connection, unit_id: str, seconds: float, **stats: int) -> None:
    ledger.unit_fused(connection, unit_id, {"gpu_seconds": seconds, **stats})


def test_the_rate_is_that_of_the_last_units_per_device(warehouse: Warehouse, connection: Connection) -> None:
    assert rates.measured(connection, "f1") is None
    plan(warehouse, ("u1", 10), ("u2", 10), ("u3", 10), ("u4", 10))
    plan(warehouse, ("v1", 10), fusion_id="f2")
    fuse(connection, "u1", 10.0)  # without token counts
    found = rates.measured(connection, "f1")
    assert found == rates.Measured(1, rates.Spread(100, 100, 100), None)
    fuse(connection, "u2", 5.0, prompt_tokens=700, caption_tokens=100)
    fuse(connection, "u3", 20.0, prompt_tokens=900, caption_tokens=300)
    fuse(connection, "v1", 1.0)
    found = rates.measured(connection, "f1")
    assert found is not None
    assert found.units == 3
    assert found.tokens_per_second == pytest.approx((68, 100, 148)), "real tokens where they were counted"
    assert found.fused == rates.Tokens(rows=20, prompt=1600, caption=400)
    assert found.tokens_real == pytest.approx((0.84, 1.0, 1.16))


def test_old_units_no_longer_count(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("slow", 10))
    fuse(connection, "slow", 1000.0)
    for number in range(rates.RECENT_UNITS):
        plan(warehouse, (f"u{number}", 10))
        fuse(connection, f"u{number}", 10.0)
    assert rates.measured(connection, "f1") == rates.Measured(20, rates.Spread(100, 100, 100), None)


def test_a_replay_under_its_own_fusion_says_nothing_about_the_rate(
    warehouse: Warehouse, connection: Connection
) -> None:
    plan(warehouse, ("u1", 10))
    fuse(connection, "u1", 10.0)
    for name, replayed in (("again", "f1"), ("other", "f0")):
        unit = Unit(unit_id=name, fusion_id="f1", rows=10, tokens=1000)
        plan(warehouse, (f"of-{name}", 1), fusion_id=replayed)
        ledger.register_units(connection, [unit], Replay(name=name, fusion_id=replayed))
    # This replay's captions existed already, except one row in ten, so its time says nothing about the rate.
    fuse(connection, "again", 0.1)
    assert rates.measured(connection, "f1") == rates.Measured(1, rates.Spread(100, 100, 100), None)
    # This replay takes captions of another fusion and fuses all rows, so its time counts.
    fuse(connection, "other", 10.0)
    found = rates.measured(connection, "f1")
    assert found is not None
    assert found.units == 2
    # This replay replaces the captions of its own fusion, so it fuses all rows.
    unit = Unit(unit_id="replaced", fusion_id="f1", rows=10, tokens=1000)
    ledger.register_units(connection, [unit], Replay(name="replaced", fusion_id="f1"), existing="replace")
    fuse(connection, "replaced", 10.0)
    found = rates.measured(connection, "f1")
    assert found is not None
    assert found.units == 3


def test_units_wait_until_they_are_fused(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 3), ("u2", 5))
    plan(warehouse, ("u3", 7), interval=NEXT_DAY)
    plan(warehouse, ("v1", 11), fusion_id="f2")
    assert rates.unfused(connection, "f1", longest_row=336) == (15, 1500)
    assert rates.unfused(connection, "f1", DAY, longest_row=336) == (8, 800)
    ledger.unit_started(connection, "u1")
    ledger.unit_failed(connection, "u2", "no memory")
    assert rates.unfused(connection, "f1", longest_row=336) == (15, 1500)
    few = rates.unfused(connection, "f1", longest_row=60)
    assert few == (15, 900), "estimates of earlier versions have no limit"
    fuse(connection, "u1", 1.0)
    load_unit(warehouse, "u3", rows(*range(7)))
    assert rates.unfused(connection, "f1", longest_row=336) == (5, 500)


def test_pairs_that_were_fused_twice_are_planned_once(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 3), ("u2", 2))
    load_unit(warehouse, "u1", rows(1, 2, 3))
    assert rates.pairs_in_units(connection, "f1", DAY) == 5
    load_unit(warehouse, "u2", rows(1, 2), replace=True)
    assert rates.pairs_in_units(connection, "f1", DAY) == 3
    assert rates.pairs_in_units(connection, "f1", NEXT_DAY) == 0
    again = Unit(unit_id="u3", fusion_id="f1", rows=2, tokens=200)
    ledger.register_units(connection, [again], DAY, existing="replace")
    connection.commit()
    assert rates.pairs_in_units(connection, "f1", DAY) == 3, "a unit that replaces has pairs of loaded units"
    load_unit(warehouse, "u3", rows(3, 4))
    assert rates.pairs_in_units(connection, "f1", DAY) == 4
