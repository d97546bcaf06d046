"""Tests how Airflow would schedule the DAGs, without a running Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

CODE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag("dags")
assert not bag.import_errors, bag.import_errors


def priority(dag):  # as weight_rule "upstream" computes it
    if not dag.has_task("fuse"):
        return None
    fuse = dag.get_task("fuse")
    return sum(dag.get_task(name).priority_weight for name in ["fuse", *fuse.get_flat_relative_ids(upstream=True)])


read = {name: {"paused": dag.is_paused_upon_creation, "priority": priority(dag)} for name, dag in bag.dags.items()}
print(json.dumps(read))
"""


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Airflow reads from each DAG, by its id. Airflow is read in a process of its own, as its parser does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CAPSFUSION"))}
    environment |= {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


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
