"""Tests sums over plans. If an interval is planned again, its own units do not count as units of other intervals."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse import funnels, plans
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.plans import PlannedPairs
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope
from tests.warehouse.conftest import DAY, plan

NEXT = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))


def record(warehouse: Warehouse, run: str, pairs: int, already: int, planned: int, interval: Interval = DAY) -> None:
    plan(warehouse)  # the fusion
    with warehouse.engine.begin() as connection:
        plans.record(connection, interval, "f1", run, pairs=pairs, already_fused=already, planned=planned)


def found(warehouse: Warehouse, scope: Scope) -> PlannedPairs | None:
    with warehouse.engine.connect() as connection:
        return plans.planned_pairs(connection, scope)


def test_a_run_has_what_it_found_and_all_runs_of_an_interval_what_others_fused(warehouse: Warehouse) -> None:
    record(warehouse, "limited", pairs=100, already=10, planned=50)
    assert found(warehouse, Scope(dag_run_id="limited")) == PlannedPairs(100, already_fused=10, left=40)
    record(warehouse, "the rest", pairs=100, already=60, planned=40)
    record(warehouse, "nothing new", pairs=100, already=100, planned=0)
    assert found(warehouse, Scope(dag_run_id="the rest")) == PlannedPairs(100, already_fused=60, left=0)
    assert found(warehouse, Scope(dag_run_id="nothing new")) == PlannedPairs(100, already_fused=100, left=0)
    assert found(warehouse, Scope(interval=DAY)) == PlannedPairs(100, already_fused=10, left=0)


def test_a_cleared_run_that_plans_again_counts_its_own_units_once(warehouse: Warehouse) -> None:
    record(warehouse, "run", pairs=100, already=10, planned=90)
    record(warehouse, "run", pairs=100, already=100, planned=0)
    assert found(warehouse, Scope(dag_run_id="run")) == PlannedPairs(100, already_fused=10, left=0)
    record(warehouse, "run", pairs=100, already=0, planned=100)  # existing: replace
    record(warehouse, "run", pairs=100, already=100, planned=0)
    assert found(warehouse, Scope(dag_run_id="run")) == PlannedPairs(100, already_fused=0, left=0)


def test_intervals_add_up_and_where_nothing_was_planned_there_is_nothing(warehouse: Warehouse) -> None:
    assert found(warehouse, EVERYTHING) is None
    record(warehouse, "first", pairs=100, already=0, planned=100)
    record(warehouse, "second", pairs=30, already=20, planned=10, interval=NEXT)
    assert found(warehouse, EVERYTHING) == PlannedPairs(130, already_fused=20, left=0)
    assert found(warehouse, Scope(fusion_id="another")) is None
    assert found(warehouse, Scope(replay="some")) is None
    with warehouse.engine.connect() as connection:
        assert funnels.interval_of_run(connection, "second") == NEXT


def test_counts_that_do_not_add_up_are_refused(warehouse: Warehouse) -> None:
    with pytest.raises(IntegrityError, match="plans_pairs_add_up_check"):
        record(warehouse, "run", pairs=100, already=60, planned=41)
