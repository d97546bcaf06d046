"""Compares figures of runs with the units and rows that tests load. Reading the figures changes and blocks nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.explorer.figures import RunKey, figures
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Unit
from capsfusion_tasks.warehouse import funnels, fusions, ledger, plans
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.funnels import HISTOGRAM_BINS, Progress, Throughput
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.queries import Scope
from capsfusion_tasks.warehouse.reading import reading
from tests.warehouse.conftest import DAY, FUSION, plan, rows

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def enter_run(warehouse: Warehouse, run: str | None, interval: Interval, *units: str) -> None:
    with warehouse.engine.begin() as connection:
        fusions.register(connection, FUSION, {})
        planned = [Unit(unit_id=unit, fusion_id="f1", rows=10, tokens=100) for unit in units]
        ledger.register_units(connection, planned, interval, run)


def set_times(warehouse: Warehouse, unit: str, planned: datetime, loaded: datetime | None) -> None:
    with warehouse.engine.begin() as connection:
        connection.execute(
            text(
                "update capsfusion.work_units set created_at = :planned, loaded_at = :loaded, gpu_seconds = 40,"
                " accepted = 8, rejected = 2, state = case when cast(:loaded as timestamptz) is null then 'fusing'"
                " else 'loaded' end where unit_id = :unit"
            ),
            {"unit": unit, "planned": planned, "loaded": loaded},
        )


def test_runs_come_with_their_sums_the_one_planned_last_first(warehouse: Warehouse) -> None:
    enter_run(warehouse, "run 1", DAY, "a", "b")
    enter_run(warehouse, None, DAY, "c")
    for minutes, unit in enumerate("abc"):
        set_times(
            warehouse, unit, NOON + timedelta(minutes=minutes), NOON + timedelta(hours=1) if unit != "b" else None
        )
    with warehouse.engine.connect() as connection:
        runs = funnels.recent_runs(connection)
    assert [(run.dag_run_id, run.units, run.units_loaded, run.rows_in) for run in runs] == [
        (None, 1, 1, 10),
        ("run 1", 2, 1, 20),
    ]


def test_a_run_that_ran_again_with_another_model_is_two_runs_and_its_last_is_the_one_planned_last(
    warehouse: Warehouse,
) -> None:
    enter_run(warehouse, "run 1", DAY, "a")
    with warehouse.engine.begin() as connection:
        fusions.register(connection, FUSION.model_copy(update={"fusion_id": "f2"}), {})
        unit = Unit(unit_id="b", fusion_id="f2", rows=7, tokens=100)
        ledger.register_units(connection, [unit], DAY, "run 1")
    set_times(warehouse, "a", NOON, NOON + timedelta(seconds=100))
    set_times(warehouse, "b", NOON + timedelta(days=2), None)
    scope = Scope(dag_run_id="run 1")
    with warehouse.engine.begin() as connection:
        runs = funnels.recent_runs(connection)
        assert [(run.dag_run_id, run.fusion_id, run.rows_in) for run in runs] == [
            ("run 1", "f2", 7),
            ("run 1", "f1", 10),
        ]
        assert funnels.last_fusion(connection, scope) == "f2"
        found = figures(connection, RunKey(dag_run_id="run 1"))
        assert found is not None
        assert (found.fusion_id, found.summary.rows_in) == ("f2", 7)
        found = figures(connection, RunKey(dag_run_id="run 1", fusion_id="f1"))
        assert found is not None
        assert (found.fusion_id, found.summary.rows_in) == ("f1", 10)
        # If the last plan found nothing new, its fusion still counts as the run's last one.
        plans.record(connection, DAY, "f1", "run 1", pairs=10, already_fused=10, planned=0)
        assert funnels.last_fusion(connection, scope) == "f1"
        assert funnels.last_fusion(connection, Scope(dag_run_id="run 2")) is None


def test_days_between_two_tries_of_a_run_do_not_slow_it_down(warehouse: Warehouse) -> None:
    enter_run(warehouse, "run 1", DAY, "a", "b", "c")
    for days, unit in enumerate("abc"):
        planned = NOON + timedelta(days=min(days, 1))  # the last two units are planned together
        set_times(warehouse, unit, planned, planned + timedelta(seconds=50))
    with warehouse.engine.connect() as connection:
        found = funnels.progress(connection, Scope(dag_run_id="run 1"))
    assert found == Progress(rows_per_second=0.3, seconds_left=None)


def test_the_time_left_is_what_waits_at_the_rate_so_far(warehouse: Warehouse) -> None:
    enter_run(warehouse, "run 1", DAY, "a", "b", "c")
    scope = Scope(dag_run_id="run 1")
    with warehouse.engine.connect() as connection:
        assert funnels.progress(connection, scope) == Progress(None, None)
    for unit, loaded in (("a", NOON + timedelta(seconds=100)), ("b", None), ("c", None)):
        set_times(warehouse, unit, NOON, loaded)
    with warehouse.engine.connect() as connection:
        assert funnels.progress(connection, scope) == Progress(rows_per_second=0.1, seconds_left=200)
    set_times(warehouse, "b", NOON, NOON + timedelta(seconds=120))
    set_times(warehouse, "c", NOON, NOON + timedelta(seconds=150))
    with warehouse.engine.connect() as connection:
        assert funnels.progress(connection, scope) == Progress(rows_per_second=0.2, seconds_left=None)


@pytest.mark.parametrize(
    ("apart", "width"), [(timedelta(0), 60), (timedelta(hours=4), 300), (timedelta(days=900), 604800)]
)
def test_throughput_has_every_row_in_a_bin(warehouse: Warehouse, apart: timedelta, width: int) -> None:
    enter_run(warehouse, "run 1", DAY, "a", "b", "c")
    for unit, loaded in (("a", NOON), ("b", NOON + apart), ("c", None)):
        set_times(warehouse, unit, NOON, loaded)
    with warehouse.engine.connect() as connection:
        found = funnels.throughput(connection, Scope(dag_run_id="run 1"))
        assert funnels.throughput(connection, Scope(dag_run_id="none")) == Throughput(60, [])
    bins = found.bins
    assert found.bin_seconds == width
    assert sum(each.rows for each in bins) == 20
    assert sum(each.gpu_seconds for each in bins) == 80
    assert all(each.start <= NOON + apart for each in bins)


def test_distributions_are_of_the_scope_and_of_all_where_there_are_few(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 6))
    load_unit(
        warehouse,
        "u1",
        rows(*range(6), rejected={0: ["copy"], 1: ["copy", "truncated"]}, novelty=1.0, fact_recall=None),
    )
    with warehouse.engine.connect() as connection:
        found = funnels.distributions(connection, Scope(unit_ids=["u1"]))
        nothing = funnels.distributions(connection, Scope(unit_ids=["u2"]))
    assert (found.accepted, found.rejected, found.reasons) == (4, 2, {"copy": 2, "truncated": 1})
    assert found.scores["novelty"] == [0] * (HISTOGRAM_BINS - 1) + [4], "the last bin has its right end"
    assert sum(found.scores["fact_recall"]) == 0, "a score that a caption lacks is in no bin"
    assert found.scores["caption_words"][0] == 1, "2 of 2, 3, 4, 5 words: a bin is 3 wide"
    assert (nothing.accepted, nothing.reasons) == (0, {})


def test_distributions_look_at_few_rows_of_a_large_unit(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(funnels, "SAMPLED_ROWS", 3)
    plan(warehouse, ("u1", 9), ("u2", 2))
    load_unit(warehouse, "u1", rows(*range(9)))
    load_unit(warehouse, "u2", rows(10, 11))
    with warehouse.engine.connect() as connection:
        assert funnels.distributions(connection, Scope()).accepted == 5


def test_the_shards_of_a_run_are_those_of_its_interval_and_late_ones_that_it_took(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 2))
    before = DAY.start - timedelta(seconds=1)
    times = {"before": before, "taken": before, "first": DAY.start, "given": DAY.start, "after": DAY.end}
    with warehouse.engine.begin() as connection:
        shards = [
            Shard(shard_id=name, source="/d", path=name, etag="", size_bytes=1, side="laion_2b", arrived_at=at)
            for name, at in times.items()
        ]
        ledger.record_shards(connection, shards)
        ledger.claim_late(connection, [shards[1]], DAY)
        ledger.claim_late(connection, [shards[3]], Interval(start=DAY.end, end=DAY.end + timedelta(days=1)))
        interval = funnels.interval_of_run(connection, "run 1")
        assert interval == DAY
        assert sorted(funnels.interval_shards(connection, interval)) == ["first", "taken"]
        assert funnels.interval_of_run(connection, "another") is None


def test_who_looks_can_change_nothing(warehouse: Warehouse) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"), reading(warehouse, 10) as connection:
        connection.execute(text("delete from capsfusion.shards"))


def test_a_query_that_takes_too_long_is_ended_and_says_so(warehouse: Warehouse) -> None:
    with (
        pytest.raises(NotReadyError, match=r"cancelled after 1 s: narrow the filter"),
        reading(warehouse, 1) as connection,
    ):
        connection.execute(text("select pg_sleep(30)"))
