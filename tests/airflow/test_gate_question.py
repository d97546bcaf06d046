"""Tests retries of the task that asks whether to load units that the gate stopped, without a running Airflow."""

from __future__ import annotations

from pathlib import Path

from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import gate_holds
from capsfusion_tasks.warehouse.connection import open_warehouse
from tests.airflow.test_run_context import run_code
from tests.plugin_process import PluginProcess
from tests.warehouse.conftest import plan

CODE = """
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import patch

from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput

import gate_question
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.tasks import gate_tasks


class Store(dict):
    def set(self, key, value, retention):
        self[key] = json.loads(json.dumps(value))

    def delete(self, key):
        self.pop(key, None)


asked, store, plan = [], Store(), [{"unit_id": name} for name in ("unit-a", "unit-b")]
instance = SimpleNamespace(id="1", dag_id="capsfusion", xcom_pull=lambda **_: plan)
context = {"run_id": "run 1", "ti": instance, "task_instance": instance, "task_state_store": store}
task = gate_question.GateQuestion(task_id="ask")
steps = {}


def step(name, does):
    asked.clear()
    with patch("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **detail: asked.append(detail)):
        try:
            found = sorted(unit["unit_id"] for unit in does())
        except (AirflowSkipException, InputError, NotReadyError, TaskAwaitingInput) as error:
            found = type(error).__name__
    steps[name] = [found, len(asked)]


def answer(option):
    at = datetime(2026, 11, 20, 12, tzinfo=UTC)
    event = {"chosen_options": [option], "params_input": {}, "responded_at": at, "responded_by_user": {"name": "Ada"}}
    return task.execute_complete(context, event)


step("asks", lambda: task.execute(context))
step("a try without an answer asks again", lambda: task.execute(context))
with patch.object(gate_tasks, "answer", side_effect=NotReadyError("the warehouse is away")):
    step("keep out is answered while the warehouse is away", lambda: answer("Keep out"))
kept = store["answer"]
step("the next try knows it", lambda: task.execute(context))
store["answer"] = kept  # by plugins/kept_answer.py
step("so does a try after the scheduler took this one for crashed", lambda: task.execute(context))
step("a cleared task asks again", lambda: task.execute(context))
step("load is answered", lambda: answer("Load"))
step("a further try gets the same units", lambda: task.execute(context))
plan.clear()
step("a run again, with nothing to fuse", lambda: task.execute(context))
print(json.dumps(steps))
"""


def test_a_further_try_neither_asks_twice_nor_loses_the_answer(
    tmp_path: Path, plugins: PluginProcess, warehouse_url: str
) -> None:
    settings = Settings(warehouse_url=warehouse_url, home=tmp_path)
    with open_warehouse(settings) as warehouse:
        plan(warehouse, ("unit-a", 4), ("unit-b", 4))
        with warehouse.engine.begin() as connection:
            for unit_id in ("unit-a", "unit-b"):
                gate_holds.enter(connection, unit_id, "run 1", (4, 3), "the gate is closed", details="copy 3 75.0% x")
    assert run_code(plugins, CODE, settings) == {
        "asks": ["TaskAwaitingInput", 1],
        "a try without an answer asks again": ["TaskAwaitingInput", 1],
        "keep out is answered while the warehouse is away": ["NotReadyError", 0],
        "the next try knows it": ["InputError", 0],
        "so does a try after the scheduler took this one for crashed": ["InputError", 0],
        "a cleared task asks again": ["TaskAwaitingInput", 1],
        "load is answered": [["unit-a", "unit-b"], 0],
        "a further try gets the same units": [["unit-a", "unit-b"], 0],
        "a run again, with nothing to fuse": ["AirflowSkipException", 0],
    }
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        holds = gate_holds.of(connection, range(1, 9))
    assert [(hold.unit_id, hold.answer, hold.answered_by) for hold in holds] == [
        (unit_id, answer, "Ada") for unit_id in ("unit-a", "unit-b") for answer in ("keep out", "load")
    ]
