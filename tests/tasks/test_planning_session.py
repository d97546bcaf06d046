"""Tests planning's database session: its lock, its transactions, and what happens if the session is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.planning import unit_files
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import open_warehouse
from tests.opened import forecast, interval_tasks, replay, unit_tasks
from tests.tasks.place import BOTH, DAY, Place, in_units, pair, paired
from tests.tasks.test_replay import fuse, good, rejections_of
from tests.warehouse.conftest import in_threads

_OPEN = text(
    "select count(*) from pg_stat_activity"
    " where datname = current_database() and state = 'idle in transaction' and pid <> pg_backend_pid()"
)
_END_PLANNERS = text(
    "select pg_terminate_backend(pid, 5000) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
)


def engine_of(place: Place) -> Engine:
    return create_engine(place.warehouse_url, isolation_level="AUTOCOMMIT")


def units_in(place: Place) -> int:
    with engine_of(place).connect() as connection:
        return int(connection.scalar(text("select count(*) from capsfusion.work_units")) or 0)


def still_open(engine: Engine) -> int:
    """The number of open transactions. Waits first, because a server process ends shortly after its client."""
    deadline = time.monotonic() + 2
    with engine.connect() as connection:
        while (count := int(connection.scalar(_OPEN) or 0)) and time.monotonic() < deadline:
            time.sleep(0.02)
    return count


def test_no_transaction_is_open_while_files_are_listed_read_or_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = engine_of(place)
    found: dict[str, int] = {}

    def watch(owner: type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def watching(*arguments: Any, **options: Any) -> Any:
            found[name] = found.get(name, 0) + still_open(watched)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watching)

    for name in ("read_table", "footer", "publish", "read_json", "sizes"):
        watch(Storage, name)
    watch(LocalSource, "files")
    settings = place.settings(buckets="auto")
    pair(settings)
    forecast.estimate(settings)
    [unit] = interval_tasks.plan(settings, DAY)
    fuse(settings, unit, good)
    unit_tasks.validate(settings, unit, accept_rejections=True)
    unit_tasks.load(settings, unit)
    interval_tasks.report(settings, DAY)
    replay.plan(settings, rejections_of(settings))
    assert found == dict.fromkeys(("read_table", "footer", "publish", "read_json", "sizes", "files"), 0)
    watched.dispose()


def test_a_source_is_listed_once_for_a_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    files = LocalSource.files

    def counting(self: LocalSource, wanted: Callable[[str], bool]) -> Any:
        listed.append(self.uri)
        return files(self, wanted)

    monkeypatch.setattr(LocalSource, "files", counting)
    interval_tasks.discover(place.settings(buckets="auto"), DAY)
    assert len(listed) == len(set(listed)) == 2


def test_plans_at_the_same_time_take_each_pair_once(place: Place) -> None:
    settings = place.settings()
    for interval in (DAY, BOTH):
        pair(settings, interval)
    found = in_threads(*(lambda interval=interval: interval_tasks.plan(settings, interval) for interval in (DAY, BOTH)))
    units = [unit for each in found for unit in each]
    assert sum(unit.rows for unit in units) == len(paired(settings, BOTH))
    assert in_units(settings, units) == paired(settings, BOTH)


def test_a_plan_that_loses_its_lock_registers_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = place.settings()
    pair(settings)
    cut_units = unit_files.cut_units

    def cut_off(*arguments: Any) -> Any:
        with engine_of(place).connect() as connection:
            assert connection.execute(_END_PLANNERS).all() == [(True,)]
        return cut_units(*arguments)

    monkeypatch.setattr(unit_files, "cut_units", cut_off)
    with pytest.raises(NotReadyError, match="try again"):
        interval_tasks.plan(settings, DAY)
    assert units_in(place) == 0
    monkeypatch.undo()
    assert in_units(settings, interval_tasks.plan(settings, DAY)) == paired(settings)


def test_a_session_that_connects_again_does_not_count_as_locked(place: Place) -> None:
    with (
        open_warehouse(place.settings()) as warehouse,
        ledger.planning_lock(warehouse.engine, "f1") as session,
    ):
        with engine_of(place).connect() as connection:
            connection.execute(_END_PLANNERS)
        with pytest.raises(Exception, match=r"terminat|closed"), session.transaction():
            pass
        with pytest.raises(NotReadyError, match="with it the lock 'plan f1'"), session.transaction():
            pass


def test_units_that_were_loaded_while_their_interval_was_planned_again_are_not_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(place.settings())
    [before] = interval_tasks.plan(place.settings(), DAY)
    stricter = place.settings(punsafe_max=0.2)
    pair(stricter)
    cut_units = unit_files.cut_units

    def loaded_meanwhile(*arguments: Any) -> Any:
        with engine_of(place).connect() as connection:
            connection.execute(
                text("update capsfusion.work_units set state = 'loaded', accepted = rows_in, rejected = 0")
            )
        return cut_units(*arguments)

    monkeypatch.setattr(unit_files, "cut_units", loaded_meanwhile)
    with pytest.raises(NotReadyError, match="were loaded or dropped while their interval was planned again"):
        interval_tasks.plan(stricter, DAY)
    with engine_of(place).connect() as connection:
        [unit] = connection.execute(text("select unit_id, state from capsfusion.work_units"))
    assert tuple(unit) == (before.unit_id, "loaded")


def test_units_that_are_planned_again_are_kept_from_tasks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(place.settings())
    [before] = interval_tasks.plan(place.settings(), DAY)
    stricter = place.settings(punsafe_max=0.2)
    pair(stricter)
    with (
        unit_tasks.at_work(place.settings(), before),
        pytest.raises(NotReadyError, match=f"another process is fusing unit {before.unit_id}"),
    ):
        interval_tasks.plan(stricter, DAY)
    [after] = interval_tasks.plan(stricter, DAY)
    assert after.rows < before.rows
