"""The task that loads a work unit: an operator class, because Airflow attaches links to operator classes only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fusion_metrics
import openlineage_events
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException
from run_context import set_label, working

if TYPE_CHECKING:
    from airflow.sdk import Context


class LoadOperator(BaseOperator):
    """Loads the captions of a work unit and marks the unit as loaded, in one transaction.

    Skipped if the gate holds the unit, because too many of the captions are rejected.

    :param unit: the unit, as ``Unit.model_dump(mode="json")`` gives it
    """

    template_fields = ("unit",)

    def __init__(self, *, unit: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit = unit

    def execute(self, context: Context) -> dict[str, Any]:
        from capsfusion_tasks.schemas import Unit
        from capsfusion_tasks.tasks import metrics, unit_tasks

        unit = Unit(**self.unit)
        set_label(context, unit.label)
        with working() as work:
            if unit_tasks.held_by_gate(work, unit):
                raise AirflowSkipException(
                    "the gate holds this unit, because too many of its captions are rejected: to load the unit, answer"
                    " the question of the ask task"
                )
            existing = context["params"]["existing"]
            with fusion_metrics.timed("load"):
                counts = unit_tasks.load(work, unit, existing=existing, dag_run_id=context["run_id"])
            openlineage_events.loaded(work, unit, counts)
            fusion_metrics.send(metrics.loaded(counts))
            fusion_metrics.send_queue(work)
        return counts
