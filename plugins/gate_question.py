"""Asks a person, once a run, whether to load the units that the gate holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import webhook_alert
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowSkipException
from run_context import planned_units, working
from run_note import as_code, as_text
from run_pages import absolute, captions_of_run, run_page

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.tasks import gate_tasks

if TYPE_CHECKING:
    from airflow.sdk import Context

    from capsfusion_tasks.warehouse.gate_holds import Answer, Hold

LOAD, KEEP_OUT = "Load", "Keep out"
ANSWERS: dict[str, Answer] = {LOAD: "load", KEEP_OUT: "keep out"}
_ASKED = "asked"  # key of the XCom with the ids of the holds that the question is about
_UNITS_SHOWN = 10
_WHAT_NEXT = (
    f"**{LOAD}**: load these units, accepted and rejected captions. **{KEEP_OUT}**: load nothing of them, and the run"
    " fails. Units that the gate did not stop are loaded in either case."
)


class GateQuestion(HITLOperator):
    """Asks about all units of the run that the gate holds, and returns those to load. Skipped if it holds none.

    Writes the answer, its author and its time to the ledger. The task fails, and nothing is loaded, if nobody answers
    within ``CAPSFUSION_GATE__ANSWER_HOURS`` or if that setting is 0.
    """

    def __init__(self, **kwargs: Any) -> None:
        default = timedelta(days=1)  # execute sets the real one; with None, Airflow would drop the execution_timeout
        super().__init__(subject="Load what the gate holds?", options=[*ANSWERS], response_timeout=default, **kwargs)

    def execute(self, context: Context) -> Any:
        with working() as work:
            holds, hours = (
                gate_tasks.to_ask(work, planned_units(context), context["run_id"]),
                work.settings.gate.answer_hours,
            )
            files = [gate_tasks.verdicts_file(work, hold.unit_id) for hold in holds]
        if not holds:
            raise AirflowSkipException("the gate holds no unit of this run")
        if not hours:
            raise InputError(f"{_told(holds)}, and CAPSFUSION_GATE__ANSWER_HOURS is 0, so nobody is asked")
        context["ti"].xcom_push(_ASKED, [hold.hold_id for hold in holds])
        self.subject = f"{_told(holds)}. Load them?"
        captions = captions_of_run(context["ti"].dag_id, context["run_id"])
        self.body = _body(holds, files, captions)
        self.response_timeout = timedelta(hours=hours)
        page = absolute(f"{run_page(context['ti'].dag_id, context['run_id'])}/tasks/{self.task_id}/required_actions")
        self.notifiers = webhook_alert.question(f"{_told(holds)}. Answer within {hours:g} hours: {page}")
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> list[dict[str, Any]]:
        answer = super().execute_complete(context, event)
        [chosen] = answer["chosen_options"]
        user = answer["responded_by_user"]
        asked = context["ti"].xcom_pull(key=_ASKED)
        with working() as work:
            units = gate_tasks.answer(work, asked, ANSWERS[chosen], user["name"], answer["responded_at"])
        if kept_out := len(asked) - len(units):
            raise InputError(
                f"{kept_out} of {len(asked)} units are kept out; {user['name']} has answered {chosen}."
                " Clear this task to be asked again"
            )
        return [unit.model_dump(mode="json") for unit in units]

    def process_trigger_event_error(self, event: dict[str, Any]) -> NoReturn:
        if event["error_type"] == "timeout":
            raise InputError("nobody has answered in time, so nothing is loaded: clear this task to ask again")
        super().process_trigger_event_error(event)
        raise AssertionError("unreachable")


def _told(holds: Sequence[Hold]) -> str:
    rejected, rows = sum(hold.rejected for hold in holds), sum(hold.rows for hold in holds)
    units = "1 unit is held" if len(holds) == 1 else f"{len(holds)} units are held"
    return f"{units}: {rejected} of {rows} captions are rejected"


def _reason(line: str) -> str:
    """A line of ``Tally.lines`` as an item of a list."""
    reason, rows, share, *example = line.split(maxsplit=3)
    return f"- {reason}: {rows} captions, {share}; such as {as_code(''.join(example) or ' ')}"


def _body(holds: Sequence[Hold], files: Sequence[str], captions: str) -> str:
    """The question as Markdown. Captions come from the open web, so they are shown as code."""
    lines = [_WHAT_NEXT]
    for hold, file in [*zip(holds, files, strict=True)][:_UNITS_SHOWN]:
        reasons = [_reason(line) for line in hold.details.splitlines()]
        why = f"{hold.rejected} of {hold.rows} captions are rejected, {hold.problem}."
        lines += [f"### {as_text(hold.unit_id)}", why, "\n".join(reasons), f"All verdicts: {as_text(file)}"]
    if more := len(holds) - _UNITS_SHOWN:
        lines += [f"And {more} more units."] if more > 0 else []
    return "\n\n".join([*lines, f"[Captions of this run that are loaded]({captions})"])
