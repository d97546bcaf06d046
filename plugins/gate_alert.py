"""Sends a message to the webhook when the quality gate holds (does not load) a work unit.

The gate holds a unit if too many of its captions are rejected. The message tells people of the unit at once. Otherwise
they would learn of it only from the question at the end of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import webhook_alert
from run_pages import absolute, run_page

if TYPE_CHECKING:
    from airflow.sdk import Context

    from capsfusion_tasks.context import Context as PipelineContext
    from capsfusion_tasks.schemas import Unit

_REASONS_SHOWN = 3
_NOBODY = (
    "it fails, because CAPSFUSION_GATE__ANSWER_HOURS is 0. To load held units, run it again with accept_rejections"
)


def tell(context: Context, work: PipelineContext, unit: Unit, counts: dict[str, Any]) -> None:
    """Send a message about ``unit``, which the gate holds, unless the run has sent one about another held unit.

    ``counts``: the result of ``unit_tasks.validate``. The message shows no caption, because captions come from the open
    web, and chats render links and markup.
    """
    from capsfusion_tasks.tasks.gate_tasks import tell_once, verdicts_file

    dag_id, run_id = context["ti"].dag_id, context["run_id"]
    reasons = ", ".join([*counts["reasons"]][:_REASONS_SHOWN])
    at_its_end = "it asks whether to load the held units" if work.settings.gate.answer_hours else _NOBODY
    text = (
        f"{dag_id} holds a unit of run {run_id}: {counts['rejected']} of {counts['rows']} captions of unit"
        f" {unit.unit_id} are rejected ({reasons}), and {counts['problem']}. The unit is not loaded, and the run goes"
        " on with its other units. If the model, the prompt or a source is wrong, mark the run as failed now, correct"
        f" the mistake, and trigger a new run. If not, wait for the end of the run: {at_its_end}. The run's page:"
        f" {absolute(run_page(dag_id, run_id))} All verdicts: {verdicts_file(work, unit.unit_id)}"
    )
    tell_once(work, unit, run_id, lambda: webhook_alert.tell(context, text))
