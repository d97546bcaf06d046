"""Tests how long the Iceberg table's snapshots are kept, by the DAG's task and by the command."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.lake.maintenance import Maintained
from tests.plugin_process import PluginProcess

# Runs the task `maintain` with each conf. Prints how many days of snapshots it keeps.
CODE = """
import json, os
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.param import process_params
from capsfusion_tasks.lake.maintenance import Maintained
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.tasks import lake_tasks

dag = DagBag("dags").dags["capsfusion_lake"]
task = dag.get_task("maintain")
names = task.python_callable.__globals__
names["working"] = lambda: nullcontext(SimpleNamespace(settings=load_settings()))
kept = []
lake_tasks.maintain_lake = lambda work, before: kept.append(datetime.now(UTC) - before) or Maintained()
for conf in json.loads(os.environ["CONFS"]):
    params = process_params(dag, task, conf, suppress_exception=False)
    names["get_current_context"] = lambda: {"dag": dag, "params": params}
    task.python_callable()
print(json.dumps([round(days.total_seconds() / 86400, 3) for days in kept]))
"""


@pytest.mark.parametrize(("setting", "usual"), [("", 7), ("30.5", 30.5)])
def test_a_run_keeps_snapshots_as_long_as_its_param_or_else_the_setting_says(
    plugins: PluginProcess, setting: str, usual: float
) -> None:
    confs = json.dumps([{}, {"keep_days": 0}, {"keep_days": 2.5}, {"keep_days": None}])
    assert plugins.answer(CODE, CONFS=confs, CAPSFUSION_LAKE_KEEP_DAYS=setting) == [usual, 0, 2.5, usual]


def test_the_command_keeps_them_as_long_as_its_option_or_else_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def maintain(context: None, *, before: datetime, **_: object) -> Maintained:
        kept.append(round((datetime.now(UTC) - before).total_seconds() / 86400, 3))
        return Maintained()

    monkeypatch.setattr("capsfusion_tasks.context.open_context", nullcontext)
    monkeypatch.setattr("capsfusion_tasks.tasks.lake_tasks.maintain_lake", maintain)
    for options, setting in (([], ""), ([], "30.5"), (["--keep-days", "0"], "30.5")):
        variables = {"CAPSFUSION_LAKE_KEEP_DAYS": setting, "CAPSFUSION_WAREHOUSE_URL": "postgresql://host/captions"}
        done = CliRunner().invoke(app, ["lake", "maintain", *options], env=variables)
        assert done.exit_code == 0, done.output
    assert kept == [7, 30.5, 0]
