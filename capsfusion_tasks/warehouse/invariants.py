"""Reads and changes the ledger for `capsfusion check` and `gc`: shards, units, plans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select, update

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Side
from capsfusion_tasks.warehouse.arrays import among
from capsfusion_tasks.warehouse.ledger_tables import plans, shards, work_units
from capsfusion_tasks.warehouse.ownership import alone_with, keep_others_off
from capsfusion_tasks.warehouse.queries import Scope
from capsfusion_tasks.warehouse.sessions import LockedSession


@dataclass(frozen=True)
class LedgerShard:
    """A shard in the ledger. ``dropped``: reason → number of rows that the pull left out."""

    shard_id: str
    side: Side
    path: str
    state: str
    rows: int | None
    dropped: dict[str, int] | None
    error: str | None


@dataclass(frozen=True)
class LedgerUnit:
    """A work unit in the ledger, with the ``interval`` or the ``replay`` that it was planned for."""

    unit_id: str
    fusion_id: str
    state: str
    rows_in: int
    tries: int
    error: str | None
    interval: Interval | None
    replay: str | None
    loaded_at: datetime | None


def ledger_shards(connection: Connection) -> dict[str, LedgerShard]:
    """All shards, by shard_id."""
    names = [shards.c[name] for name in LedgerShard.__annotations__]
    return {row.shard_id: LedgerShard(*row) for row in connection.execute(select(*names))}


def ledger_units(connection: Connection, scope: Scope) -> list[LedgerUnit]:
    """The units in ``scope``, in the order of their ids."""
    statement = select(work_units).where(scope.clause()).order_by(work_units.c.unit_id)
    return [
        LedgerUnit(
            row.unit_id,
            row.fusion_id,
            row.state,
            row.rows_in,
            row.tries,
            row.error,
            Interval(start=row.interval_start, end=row.interval_end) if row.interval_start is not None else None,
            row.replay,
            row.loaded_at,
        )
        for row in connection.execute(statement)
    ]


def unit_ids(connection: Connection) -> set[str]:
    """The ids of all units."""
    return set(connection.scalars(select(work_units.c.unit_id)))


def pull_again(engine: Engine, shard_ids: Sequence[str]) -> None:
    """Set the state of shards to discovered, so that the next run of their interval pulls them again."""
    statement = update(shards).where(among(shards.c.shard_id, shard_ids))
    with engine.begin() as connection:
        connection.execute(statement.values(state="discovered", rows=None, dropped=None, updated_at=func.now()))


@contextmanager
def forgotten(engine: Engine, unit_id: str) -> Iterator[None]:
    """Delete a unit from the ledger. The deletion commits at the end of the block; the block deletes the unit's files.

    The next plan puts the unit's pairs into a new unit, which may have the same id. So the old files must be gone
    before the deletion commits. Raises NotReadyError if a task works on the unit, or if the unit was already loaded or
    deleted.
    """
    with alone_with(engine, unit_id) as connection:
        if not _delete_units(connection, work_units.c.unit_id == unit_id, work_units.c.state != "loaded"):
            raise NotReadyError(f"unit {unit_id} was loaded or deleted while this command was running; try again")
        yield


def _delete_units(connection: Connection, *conditions: ColumnElement[bool]) -> dict[str, int]:
    """Delete units from the ledger. Returns unit_id → number of rows of the deleted unit.

    Sets ``leaves_pairs`` for the other units of the same plans, because the deleted units' pairs must be planned again.
    """
    units = work_units.c
    columns = (units.unit_id, units.rows_in, units.fusion_id, units.created_at)
    gone = connection.execute(delete(work_units).where(*conditions).returning(*columns)).all()
    for fusion_id, created_at in {(row.fusion_id, row.created_at) for row in gone}:
        planned_together = (units.fusion_id == fusion_id, units.created_at == created_at)
        connection.execute(update(work_units).where(*planned_together).values(leaves_pairs=True))
    return {row.unit_id: row.rows_in for row in gone}


def hold_units(session: LockedSession, unit_ids: Iterable[str]) -> None:
    """Lock the units until the session ends, so that no task can start to fuse them.

    Raises NotReadyError if a task is fusing one of the units.
    """
    for unit_id in sorted(unit_ids):
        if not session.try_lock("unit", unit_id):
            raise NotReadyError(f"another process is fusing unit {unit_id}; try again when it has ended")


def drop_plan(connection: Connection, interval: Interval, fusion_id: str, unit_ids: Set[str]) -> None:
    """Delete the unloaded units of an interval from the ledger, and subtract their rows from the interval's last plan.

    ``unit_ids``: the ids of these units, as the caller read them from the ledger. The caller must hold the planning
    lock. Raises NotReadyError if a task works on a unit, or if units were loaded or deleted in the meantime.
    """
    units = work_units.c
    mine = (units.fusion_id == fusion_id, units.interval_start == interval.start, units.interval_end == interval.end)
    unfinished = (*mine, units.state != "loaded")
    for unit_id in connection.scalars(select(units.unit_id).where(*unfinished)).all():
        keep_others_off(connection, unit_id)
    gone = _delete_units(connection, *unfinished)
    if gone.keys() != unit_ids:
        raise NotReadyError("units were loaded or dropped while their interval was planned again; try again")
    rows = sum(gone.values())
    columns = plans.c
    its = (
        columns.fusion_id == fusion_id,
        columns.interval_start == interval.start,
        columns.interval_end == interval.end,
    )
    last = select(func.max(columns.plan_id)).where(*its).scalar_subquery()
    connection.execute(
        update(plans).where(columns.plan_id == last).values(planned=func.greatest(columns.planned - rows, 0))
    )
