"""The table ``gate_holds``: units that the quality gate held back, and people's answers: load, or keep out.

The gate holds back a unit if validation rejects too many of its captions. If a unit has several rows, the newest row
counts. A row with an answer is never changed. The caller commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from capsfusion_tasks.warehouse.ledger_tables import gate_holds, work_units
from capsfusion_tasks.warehouse.locks import lock_key

Answer = Literal["load", "keep out"]

_columns = gate_holds.c


@dataclass(frozen=True)
class Hold:
    """A unit that the gate holds back. ``problem``: why. ``details``: why captions were rejected, with examples."""

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
    load anyway; nobody is asked then.
    """
    rows, rejected = counts
    connection.execute(delete(gate_holds).where(_columns.unit_id == unit_id, _columns.answer.is_(None)))
    answered = {"answer": "load", "answered_by": let_in_by, "answered_at": func.now()} if let_in_by else {}
    held = {"unit_id": unit_id, "dag_run_id": dag_run_id, "rows_in": rows, "rejected": rejected}
    connection.execute(insert(gate_holds).values(**held, problem=problem, details=details, **answered))


def is_first(connection: Connection, fusion_id: str, dag_run_id: str) -> bool:
    """True if the run has no unit of this fusion yet that is held and waits for an answer.

    Until the caller's transaction ends, the run's other tasks wait here. So two tasks that hold back units at the same
    time cannot both get True.
    """
    connection.execute(select(func.pg_advisory_xact_lock(lock_key("hold", dag_run_id))))
    statement = select(_columns.hold_id).join(work_units, work_units.c.unit_id == _columns.unit_id)
    statement = statement.where(work_units.c.fusion_id == fusion_id, _columns.dag_run_id == dag_run_id)
    return connection.execute(statement.where(_columns.answer.is_(None)).limit(1)).first() is None


def held_again(connection: Connection, hold_id: int, dag_run_id: str) -> None:
    """Record that the gate holds back the unit again, now in this run. The row then belongs to this run."""
    connection.execute(update(gate_holds).where(_columns.hold_id == hold_id).values(dag_run_id=dag_run_id))


def newest(connection: Connection, unit_id: str) -> Hold | None:
    """The unit's newest row. None if the gate never held back the unit."""
    statement = select(gate_holds).where(_columns.unit_id == unit_id).order_by(_columns.hold_id.desc()).limit(1)
    row = connection.execute(statement).one_or_none()
    return None if row is None else _hold(row)


def unanswered(connection: Connection, unit_ids: Sequence[str]) -> list[Hold]:
    """The holds of these units that have no answer yet."""
    statement = select(gate_holds).where(_columns.unit_id.in_(unit_ids), _columns.answer.is_(None))
    return [_hold(row) for row in connection.execute(statement.order_by(_columns.unit_id))]


def of(connection: Connection, hold_ids: Sequence[int]) -> list[Hold]:
    """The holds with these ids."""
    statement = select(gate_holds).where(_columns.hold_id.in_(hold_ids)).order_by(_columns.unit_id)
    return [_hold(row) for row in connection.execute(statement)]


def answer(
    connection: Connection, hold_ids: Sequence[int], given: Answer, answered_by: str, answered_at: datetime
) -> None:
    """Record the answer in those rows that have no answer yet."""
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
