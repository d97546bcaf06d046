"""Tests how Airflow would schedule the DAGs, and what their tasks make of a run's Params, without a running Airflow."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.plugin_process import PluginProcess

# Prints how each DAG would be scheduled, and what the first tasks of each DAG say of the Params that Airflow makes of a
# run's conf. One process for all tests, because Airflow's imports take seconds.
CODE = """
import json, os
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import process_params
from capsfusion_tasks.errors import InputError
from run_context import told_params

bag = DagBag("dags")
assert not bag.import_errors, bag.import_errors


def priority(dag):  # as weight_rule "upstream" computes it
    if not dag.has_task("fuse"):
        return None
    fuse = dag.get_task("fuse")
    return sum(dag.get_task(name).priority_weight for name in ["fuse", *fuse.get_flat_relative_ids(upstream=True)])


read = {name: {"paused": dag.is_paused_upon_creation, "priority": priority(dag)} for name, dag in bag.dags.items()}
refused = {}
for dag_id, dag in bag.dags.items():
    for task in dag.roots:
        conf = {"export_to": "/kept"} if "export_to" in dag.params else {}
        params = process_params(dag, task, conf | json.loads(os.environ["CONF"]), suppress_exception=False)
        context = {"dag": dag, "params": params}
        task.python_callable.__globals__["get_current_context"] = lambda: context
        try:
            task.python_callable()
        except InputError as error:
            refused[f"{dag_id} {task.task_id}"] = str(error)
        if dag_id == "capsfusion":  # its task report tells the Params
            refused["told"] = told_params(context)
print(json.dumps({"dags": read, "refused": refused}))
"""


@pytest.fixture(scope="module")
def found(plugins: PluginProcess) -> dict[str, Any]:
    """What CODE prints. Airflow is read in a process of its own, as its parser does."""
    answer: dict[str, Any] = plugins.answer(
        CODE,
        CONF=json.dumps({"limits": 10, "keep_day": None, "x\u202e": 1}),
        CAPSFUSION_WAREHOUSE_URL="postgresql://127.0.0.1:1/none",  # no task may get as far as the warehouse
    )
    return answer


@pytest.fixture(scope="module")
def dags(found: dict[str, Any]) -> dict[str, Any]:
    """What Airflow reads from each DAG, by its id."""
    return dict(found["dags"])


@pytest.fixture(scope="module")
def refused(found: dict[str, Any]) -> dict[str, str]:
    """For a run with unknown Params: the error of each first task, and ("told") the Params that its report tells."""
    return dict(found["refused"])


def test_the_lake_follows_the_first_run_without_being_unpaused(dags: dict[str, Any]) -> None:
    # Airflow drops the events of an asset for a paused DAG. The other DAGs keep Airflow's default, and start paused.
    assert {dag_id: dag["paused"] for dag_id, dag in dags.items()} == {
        "capsfusion": None,
        "capsfusion_export": None,
        "capsfusion_lake": False,
        "capsfusion_replay": None,
    }


def test_a_replay_does_not_wait_until_all_daily_units_are_fused(dags: dict[str, Any]) -> None:
    # The pool `gpu` gives its slots to the tasks with the highest priority.
    assert dags["capsfusion_replay"]["priority"] == dags["capsfusion"]["priority"] > 1


def test_the_first_tasks_of_every_dag_refuse_unknown_params(refused: dict[str, str]) -> None:
    assert set(refused) == {
        "capsfusion discover",
        "capsfusion_export export",
        "capsfusion_lake sync",
        "capsfusion_replay plan",
        "told",
    }
    assert refused["capsfusion_export export"] == (
        "the DAG capsfusion_export has no Param keep_day, limits (did you mean limit?), x\\u202e; it has columns,"
        " export_to, filter, limit. Trigger the run again with the right names"
    )
    for name in ("capsfusion discover", "capsfusion_replay plan"):
        assert "limits (did you mean limit?)" in refused[name]
    assert "keep_day (did you mean keep_days?), limits, x" in refused["capsfusion_lake sync"]


def test_a_report_also_tells_params_that_the_dag_does_not_have(refused: dict[str, str]) -> None:
    assert refused["told"] == "Params: export_to /kept, limits 10, keep_day None, x\u202e 1"
