"""Asks a person, once per run, whether to load the units that the gate holds.

The gate holds a unit if validation rejects too many of its captions (``capsfusion_tasks/validation/gate.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import kept_answer
import webhook_alert
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import NEVER_EXPIRE
from run_context import planned_units, working
from run_note import as_code, as_text
from run_pages import absolute, captions_of_run, run_page

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from capsfusion_tasks.warehouse.gate_holds import Answer, Hold

LOAD, KEEP_OUT = "Load", "Keep out"
ANSWERS: dict[str, Answer] = {LOAD: "load", KEEP_OUT: "keep out"}
_ASKED = "asked"  # key in the task's state store: ids of the rows of gate_holds (held units) that the question is about
_UNITS_SHOWN = 10
_WHAT_NEXT = (
    f"**{LOAD}**: load the accepted and rejected captions of these units. **{KEEP_OUT}**: load none of these units, and"
    " the run fails. Units that the gate does not hold are loaded whatever the answer is."
)


class GateQuestion(HITLOperator):
    """Asks about all units of the run that the gate holds, and returns the units to load. Skipped if there are none.

    Writes the answer, its author and its time to the ledger. The task fails, and none of these units is loaded, if
    nobody answers within ``CAPSFUSION_GATE__ANSWER_HOURS`` or if that setting is 0.

    Keeps an answer in the task's state store until the ledger has it, because the next try of the task deletes
    Airflow's own record of the answer. So nobody is asked twice if the warehouse or a worker fails after the answer.
    """

    def __init__(self, **kwargs: Any) -> None:
        # A placeholder until execute sets the real response_timeout. Without a response_timeout, Airflow would drop the
        # execution_timeout.
        default = timedelta(days=1)
        super().__init__(subject="Load the held units?", options=[*ANSWERS], response_timeout=default, **kwargs)

    def execute(self, context: Context) -> Any:
        from capsfusion_tasks.tasks import gate_tasks

        store, planned = context["task_state_store"], planned_units(context)
        kept: Any = store.get(kept_answer.KEY)  # an answer to an earlier try, perhaps written to the ledger already
        let_in = self._settle(context, store.get(_ASKED), kept) if kept else []
        with working() as work:
            holds, hours = gate_tasks.to_ask(work, planned, context["run_id"]), work.settings.gate.answer_hours
            files = [gate_tasks.verdicts_file(work, hold.unit_id) for hold in holds]
        if not holds:
            if units := [unit for unit in let_in if unit["unit_id"] in planned]:
                return units
            raise AirflowSkipException("the gate holds no unit of this run")
        if not hours:
            raise InputError(
                f"{_told(holds)}, and CAPSFUSION_GATE__ANSWER_HOURS is 0, so nobody is asked. To load held units,"
                " trigger the run again with accept_rejections"
            )
        store.delete(kept_answer.KEY)
        store.set(_ASKED, [hold.hold_id for hold in holds], retention=NEVER_EXPIRE)
        self.subject = f"{_told(holds)}. Load them?"
        captions = captions_of_run(context["ti"].dag_id, context["run_id"])
        self.body = _body(holds, files, captions)
        self.response_timeout = timedelta(hours=hours)
        page = absolute(f"{run_page(context['ti'].dag_id, context['run_id'])}/tasks/{self.task_id}/required_actions")
        self.notifiers = webhook_alert.question(f"{_told(holds)}. Answer within {hours:g} hours: {page}")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[dict[str, Any]]:
        answer, store = super().execute_complete(context, event), context["task_state_store"]
        if (asked := store.get(_ASKED)) is None:
            raise InputError("Airflow has lost the list of units to ask about: clear this task to ask again")
        kept = kept_answer.as_json(answer["chosen_options"], answer["responded_by_user"], answer["responded_at"])
        store.set(kept_answer.KEY, kept, retention=NEVER_EXPIRE)
        return self._settle(context, asked, kept)

    def _settle(self, context: Context, asked: Any, answer: Any) -> list[dict[str, Any]]:
        """Write the answer to the ledger. Returns the units to load. Raises InputError if a unit may not be loaded."""
        from capsfusion_tasks.tasks import gate_tasks

        given, user, at = ANSWERS[answer["chosen"]], answer["user"], datetime.fromisoformat(answer["at"])
        with working() as work:
            units = gate_tasks.answer(work, asked, given, user, at)
            kept_out = len(asked) - len(units)
            why = gate_tasks.why_kept_out(work, asked, given) if kept_out else ""
        if kept_out:
            # Delete the kept answer, because the ledger has it now. So the task asks again if a user clears the task.
            context["task_state_store"].delete(kept_answer.KEY)
            raise InputError(
                f"{kept_out} of {len(asked)} units are not loaded: {why}. Clear this task to be asked again"
            )
        return [unit.model_dump(mode="json") for unit in units]

    def process_trigger_event_error(self, event: dict[str, Any]) -> NoReturn:
        if event["error_type"] == "timeout":
            raise InputError("nobody has answered in time, so the units are not loaded: clear this task to ask again")
        super().process_trigger_event_error(event)
        raise AssertionError("unreachable")


def _told(holds: Sequence[Hold]) -> str:
    rejected, rows = sum(hold.rejected for hold in holds), sum(hold.rows for hold in holds)
    units = "1 unit is held" if len(holds) == 1 else f"{len(holds)} units are held"
    return f"{units}: {rejected} of {rows} captions are rejected"


def _reason(line: str) -> str:
    """A line of ``Tally.lines`` (reason, rows, share, example) as an item of a Markdown list."""
    reason, rows, share, *example = line.split(maxsplit=3)
    return f"- {reason}: {rows} captions, {share}; such as {as_code(''.join(example) or ' ')}"


def _body(holds: Sequence[Hold], files: Sequence[str], captions: str) -> str:
    """The question as Markdown. Captions come from the open web, so they are shown as code."""
    lines = [_WHAT_NEXT]
    for hold, file in [*zip(holds, files, strict=True)][:_UNITS_SHOWN]:
        reasons = [_reason(line) for line in hold.details.splitlines()]
        why = f"{hold.rejected} of {hold.rows} captions are rejected, and {hold.problem}."
        lines += [f"### {as_text(hold.unit_id)}", why, "\n".join(reasons), f"All verdicts: {as_text(file)}"]
    if more := len(holds) - _UNITS_SHOWN:
        lines += [f"And {more} more units."] if more > 0 else []
    return "\n\n".join([*lines, f"[Captions of this run that are loaded]({captions})"])
