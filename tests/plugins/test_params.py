"""Tests what the DAGs' tasks make of a run's Params, without a running Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# Gives the first tasks of each DAG the Params that Airflow makes of a run's conf. Runs in its own process, as a task.
CODE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import process_params
from capsfusion_tasks.errors import InputError
from run_context import told_params

bag = DagBag("dags")
assert not bag.import_errors, bag.import_errors
found = {}
for dag_id, dag in bag.dags.items():
    for task in dag.roots:
        conf = {"export_to": "/kept"} if "export_to" in dag.params else {}
        params = process_params(dag, task, conf | json.loads(sys.argv[1]), suppress_exception=False)
        context = {"dag": dag, "params": params}
        task.python_callable.__globals__["get_current_context"] = lambda: context
        try:
            task.python_callable()
        except InputError as error:
            found[f"{dag_id} {task.task_id}"] = str(error)
        if dag_id == "capsfusion":  # its task report tells the Params
            found["told"] = told_params(context)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For a run with unknown Params: the error of each first task, and ("told") the Params that its report tells."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CAPSFUSION"))}
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "CAPSFUSION_WAREHOUSE_URL": "postgresql://127.0.0.1:1/none",  # no task may get as far as the warehouse
    }
    conf = json.dumps({"limits": 10, "keep_day": None, "x\u202e": 1})
    command = [sys.executable, "-c", CODE, conf]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


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
