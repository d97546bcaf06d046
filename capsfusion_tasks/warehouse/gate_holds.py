"""The table ``gate_holds``: units that the quality gate held back, and people's answers: load, or keep out.

The gate holds back a unit if validation rejects too many of its captions. If a unit has several rows, the newest row
counts. A row with an answer is never changed. The caller commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Case, Connection, Row, case, delete, func, insert, select, update

from capsfusion_tasks.warehouse.ledger_tables import gate_holds, work_units
from capsfusion_tasks.warehouse.locks import lock_key

Answer = Literal["load", "keep out"]

_columns = gate_holds.c


@dataclass(frozen=True)
class Hold:
    """A unit that the gate holds back.

    ``problem``: why the gate holds back the unit. ``details``: why captions were rejected, with examples.
    """

    hold_id: int
    unit_id: str
    rows: int
    rejected: int
    problem: str
    details: str
    answer: Answer | None  # None: nobody has answered yet
    answered_by: str | None
    answered_at: datetime | None

    @property
    def is_held(self) -> bool:
        return self.answer != "load"


def enter(
    connection: Connection,
    unit_id: str,
    dag_run_id: str | None,
    counts: tuple[int, int],
    problem: str,
    *,
    details: str = "",
    let_in_by: str | None = None,
) -> None:
    """Record a unit that the gate holds back. Replaces the unit's earlier row if that row has no answer.

    ``counts``: numbers of the unit's rows and of its rejected rows. ``let_in_by``: the check or setting that allows the
    load anyway, so that nobody is asked. None: a person must answer.
    """
    rows, rejected = counts
    earlier = delete(gate_holds).where(_columns.unit_id == unit_id, _columns.answer.is_(None))
    told_at = connection.scalar(earlier.returning(_told_in(dag_run_id)))
    answered = {"answer": "load", "answered_by": let_in_by, "answered_at": func.now()} if let_in_by else {}
    held = {"unit_id": unit_id, "dag_run_id": dag_run_id, "rows_in": rows, "rejected": rejected}
    connection.execute(insert(gate_holds).values(**held, problem=problem, details=details, told_at=told_at, **answered))


def lock_message(connection: Connection, dag_run_id: str) -> bool:
    """Take the lock for sending the run's message about held units, until the transaction ends.

    Returns False if another task has the lock.
    """
    return bool(connection.scalar(select(func.pg_try_advisory_xact_lock(lock_key("hold", dag_run_id)))))


def is_told(connection: Connection, fusion_id: str, dag_run_id: str) -> bool:
    """True if a message about a held unit of the run and fusion was sent, and that unit has no answer yet."""
    statement = select(_columns.hold_id).join(work_units, work_units.c.unit_id == _columns.unit_id)
    statement = statement.where(work_units.c.fusion_id == fusion_id, _columns.dag_run_id == dag_run_id)
    is_open = statement.where(_columns.answer.is_(None), _columns.told_at.is_not(None))
    return connection.execute(is_open.limit(1)).first() is not None


def mark_told(connection: Connection, unit_id: str, dag_run_id: str) -> None:
    """Record that the message about the run's held units was sent, and that this unit is one of them."""
    statement = update(gate_holds).where(_columns.unit_id == unit_id, _columns.dag_run_id == dag_run_id)
    statement = statement.where(_columns.answer.is_(None))
    connection.execute(statement.values(told_at=func.coalesce(_columns.told_at, func.now())))


def held_again(connection: Connection, hold_id: int, dag_run_id: str) -> None:
    """Record that the gate holds back the unit again, now in this run. The row then belongs to this run."""
    statement = update(gate_holds).where(_columns.hold_id == hold_id)
    connection.execute(statement.values(dag_run_id=dag_run_id, told_at=_told_in(dag_run_id)))


def _told_in(dag_run_id: str | None) -> Case[Any]:
    """A row's ``told_at`` if the row belongs to this run, else null, because each run sends its own message."""
    return case((_columns.dag_run_id == dag_run_id, _columns.told_at))


def newest(connection: Connection, unit_id: str) -> Hold | None:
    """The unit's newest row. None if the gate never held back the unit."""
    statement = select(gate_holds).where(_columns.unit_id == unit_id).order_by(_columns.hold_id.desc()).limit(1)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _hold(row)


def unanswered(connection: Connection, unit_ids: Sequence[str]) -> list[Hold]:
    """The holds (rows of ``gate_holds``) of these units that have no answer yet."""
    statement = select(gate_holds).where(_columns.unit_id.in_(unit_ids), _columns.answer.is_(None))
    return [_hold(row) for row in connection.execute(statement.order_by(_columns.unit_id))]


def of(connection: Connection, hold_ids: Sequence[int]) -> list[Hold]:
    """The holds with these ids."""
    statement = select(gate_holds).where(_columns.hold_id.in_(hold_ids)).order_by(_columns.unit_id)
    return [_hold(row) for row in connection.execute(statement)]


def answer(
    connection: Connection, hold_ids: Sequence[int], given: Answer, answered_by: str, answered_at: datetime
) -> None:
    """Record the answer ``given`` in the rows ``hold_ids``, except in rows that already have an answer."""
    statement = update(gate_holds).where(_columns.hold_id.in_(hold_ids), _columns.answer.is_(None))
    connection.execute(statement.values(answer=given, answered_by=answered_by, answered_at=answered_at))


def _hold(row: Row[tuple[object, ...]]) -> Hold:
    return Hold(
        row.hold_id,
        row.unit_id,
        row.rows_in,
        row.rejected,
        row.problem,
        row.details,
        row.answer,
        row.answered_by,
        row.answered_at,
    )
