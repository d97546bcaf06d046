"""Keeps a person's answer to the question of the task ``ask`` if Airflow considers the task crashed.

``ask`` asks whether to load units that the gate holds, because too many of their captions are rejected. The process
that asks the question ends, and the answer starts the task again. If the person answers so quickly that the scheduler
has not handled the end of this process yet, Airflow considers the task crashed. When the task asks again, Airflow
deletes its own record of the answer. So this plugin copies the answer into the task's state store, where the next try
finds it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import inspect, select
from sqlalchemy.orm import object_session

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

KEY = "answer"  # key in the task's state store
OPERATOR = "GateQuestion"


def as_json(chosen: Sequence[str], user: Any, at: datetime) -> dict[str, Any]:
    """An answer as JSON for the state store. ``user``: Airflow's dict about the user who answered."""
    [option] = chosen
    return {"chosen": option, "user": user["name"], "at": at.isoformat()}


class KeptAnswer:
    """Copies the answer into the task's state store if the scheduler (not a worker) marks the task as failed."""

    @hookimpl
    def on_task_instance_failed(self, task_instance: TaskInstance) -> None:
        if inspect(task_instance, raiseerr=False) is None or task_instance.operator != OPERATOR:
            return  # the call comes from a worker, or the task is not a GateQuestion
        # Imported here, because tasks also load this plugin, but have no access to Airflow's database.
        from airflow.models.hitl import HITLDetail
        from airflow.models.taskinstance import TaskInstance
        from airflow.state import TaskScope, get_state_backend

        session = object_session(task_instance)
        if session is None:
            return
        scope = TaskScope(task_instance.dag_id, task_instance.run_id, task_instance.task_id, task_instance.map_index)
        # Find the task by its DAG, run, name and map index. ``task_instance`` already has the id of the next try, which
        # is not in the database yet.
        found = session.execute(
            select(HITLDetail.chosen_options, HITLDetail.responded_by, HITLDetail.responded_at)
            .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
            .filter_by(**asdict(scope))
            .where(HITLDetail.responded_at.is_not(None))
        ).one_or_none()
        if found is None:
            return
        answer = as_json(*found)
        get_state_backend().set(scope, KEY, json.dumps(answer), session=session)


class KeptAnswerPlugin(AirflowPlugin):
    name = "capsfusion_kept_answer"
    listeners = [KeptAnswer()]  # noqa: RUF012
