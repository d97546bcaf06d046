"""Lists units that the gate stopped because of too many rejections, and records people's answers: load or keep out.

Airflow's DAGs call these functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from capsfusion_tasks.context import Context
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.staging import layout
from capsfusion_tasks.warehouse import gate_holds, ledger
from capsfusion_tasks.warehouse.gate_holds import Answer, Hold

log = logging.getLogger(__name__)


def tell_once(context: Context, unit: Unit, dag_run_id: str, send: Callable[[], bool]) -> None:
    """Call ``send`` for ``unit``, which the gate holds, unless this run has already sent a message for this fusion.

    ``send`` sends the message and returns whether this succeeded. Only a sent message is recorded:

    - If the worker dies before the record is written, the task's next try sends the message, perhaps a second time.
    - If the webhook fails, the run's next held unit sends the message. If no other unit is held, the first message is
      the question at the run's end.
    - After an answer, the next held unit sends a new message, because this unit needs a new question.

    If another task of the run is sending the message, this function returns at once, because the webhook may be slow.
    """
    with context.warehouse.engine.begin() as connection:
        locked = gate_holds.lock_message(connection, dag_run_id)
        if gate_holds.is_told(connection, unit.fusion_id, dag_run_id) or (locked and send()):
            gate_holds.mark_told(connection, unit.unit_id, dag_run_id)


def to_ask(context: Context, unit_ids: Sequence[str], dag_run_id: str | None) -> list[Hold]:
    """The holds (units that the gate stopped) that have no answer yet.

    First adds a new hold for each unit that a person kept out last time, so that this run asks about the unit again.
    """
    with context.warehouse.engine.begin() as connection:
        states = ledger.unit_states(connection, unit_ids)
        for unit_id in (unit_id for unit_id, state in states.items() if state != "loaded"):
            before = gate_holds.newest(connection, unit_id)
            if before and before.answer == "keep out":
                counts = (before.rows, before.rejected)
                gate_holds.enter(connection, unit_id, dag_run_id, counts, before.problem, details=before.details)
        open_holds = gate_holds.unanswered(connection, unit_ids)
    return [hold for hold in open_holds if states[hold.unit_id] != "loaded"]


def verdicts_file(context: Context, unit_id: str) -> str:
    """The path of the file with the unit's captions and validation's verdict on each."""
    return f"{context.settings.staging_uri.rstrip('/')}/{layout.unit_validated(unit_id)}"


def answer(context: Context, hold_ids: Sequence[int], given: Answer, answered_by: str, at: datetime) -> list[Unit]:
    """Record a person's answer about these holds in the ledger. Returns the units to load.

    A hold keeps its first answer, so that a retry of the task returns the same units.
    """
    with context.warehouse.engine.begin() as connection:
        gate_holds.answer(connection, hold_ids, given, answered_by, at)
        holds = gate_holds.of(connection, hold_ids)
        for hold in holds:
            if hold.is_held:
                why = f"{hold.rejected} of {hold.rows} captions are rejected, and {hold.problem}"
                ledger.unit_failed(connection, hold.unit_id, f"kept out by {hold.answered_by}: {why}")
            log.info('unit %s: the answer is "%s", given by %s', hold.unit_id, hold.answer, hold.answered_by)
        return ledger.units(connection, [hold.unit_id for hold in holds if not hold.is_held])


def why_kept_out(context: Context, hold_ids: Sequence[int], given: Answer) -> str:
    """Text that says why ``answer`` did not return all units of these holds.

    ``given``: the answer that was passed to ``answer``. If two runs ask about the same hold, only the first answer
    counts. A hold without an answer is replaced if its unit is validated again with other counts. An answer to the old
    hold then has no effect.
    """
    with context.warehouse.engine.connect() as connection:
        held = [hold for hold in gate_holds.of(connection, hold_ids) if hold.is_held]
    if not held:
        return "they were validated or planned again after the question was asked"
    names = " and ".join(sorted({str(hold.answered_by) for hold in held}))
    return f'the answer of {names} is "keep out"' + (", and the first answer counts" if given == "load" else "")
