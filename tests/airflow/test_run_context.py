"""What tasks read from Airflow's context and Connections, without a running Airflow."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from tests.conftest import new_warehouse
from tests.plugin_process import PluginProcess
from tests.upkeep.conftest import DAYS, plan_day, settings_for

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import json, os
from run_context import use_aws_connection
use_aws_connection()
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("AWS_")}))
"""


def run_with(plugins: PluginProcess, connection: dict[str, object] | None) -> subprocess.CompletedProcess[str]:
    """Run CODE in its own process, as a task would. CAPSFUSION_AWS_CONN_ID names ``connection``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env["CAPSFUSION_AWS_CONN_ID"] = "store"
    if connection is not None:
        env["AIRFLOW_CONN_STORE"] = json.dumps(connection)
    return plugins.run(CODE, env)


def test_a_connection_supplies_keys_and_endpoint_of_s3(plugins: PluginProcess) -> None:
    extra = {"region_name": "eu-west-1", "endpoint_url": "http://minio:9000"}
    done = run_with(plugins, {"conn_type": "aws", "login": "the-key", "password": "the-secret", "extra": extra})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://minio:9000",
    }


def test_a_connection_that_is_not_there_or_asks_for_more_is_refused(plugins: PluginProcess) -> None:
    assert "InputError: CAPSFUSION_AWS_CONN_ID: there is no Connection store;" in run_with(plugins, None).stderr
    done = run_with(plugins, {"conn_type": "aws", "login": "k", "extra": {"role_arn": "arn:aws:iam::1:role/x"}})
    assert "InputError: Connection store has unknown fields in its extra: remove role_arn." in done.stderr


def run_code(plugins: PluginProcess, code: str, settings: Settings, **variables: str) -> dict[str, Any]:
    """The JSON in the last line that ``code`` prints, in a process with the plugins on its path."""
    found: dict[str, Any] = plugins.answer(f"import json\n{code}", **{**settings.environment(), **variables})
    return found


def test_params_go_before_the_settings_and_only_where_units_are_planned(
    tmp_path: Path, plugins: PluginProcess, warehouse_url: str
) -> None:
    code = """
from types import SimpleNamespace
from run_context import planning, replay_of, working
params = {"reason": ["copy"], "start": None, "end": "2026-11-10T01:00:00+01:00", "limit": 3, "filter": None}
params |= {"num_beams": 5, "max_new_tokens": 7, "prompt": "prompt.txt"}
context = {"run_id": "manual", "params": params, "dag": SimpleNamespace(params=params)}
beams = []
for opened in (planning(context), working()):
    with opened as work:
        beams.append((work.decoding.num_beams, work.decoding.max_new_tokens, work.decoding.prompt))
print(json.dumps({"beams": beams, "replay": replay_of(context, "abc").model_dump(mode="json")}))
"""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Merge {raw} and {synthetic}")
    settings = Settings(warehouse_url=warehouse_url, home=tmp_path)
    found = run_code(plugins, code.replace("prompt.txt", str(prompt)), settings, CAPSFUSION_NUM_BEAMS="2")
    assert found["beams"] == [[5, 7, "Merge {raw} and {synthetic}"], [2, 80, None]]
    assert found["replay"] == {
        "name": "manual",
        "fusion_id": "abc",
        "reasons": ["copy"],
        "loaded_from": None,
        "loaded_before": "2026-11-10T00:00:00Z",
        "limit": 3,
        "filter": None,
    }


def test_the_tasks_of_a_unit_open_the_warehouse_once_and_need_no_model_setting(
    tmp_path: Path, plugins: PluginProcess, postgres: EmbeddedPostgres, tiny_model: Path
) -> None:
    write_sample_data(tmp_path / "shards", rows_per_day=16)
    with new_warehouse(postgres) as url:
        settings = settings_for(tmp_path / "shards", tmp_path / "home", url)
        planned = plan_day(
            settings.model_copy(update={"model": str(tiny_model), "num_beams": 2}), DAYS[0], dag_run_id="run 1"
        )
        code = """
import capsfusion_tasks.context as pipeline
from dag_parts import validate
from load_operator import LoadOperator
from run_context import planning
import torchrun_operator
from types import SimpleNamespace
from unittest.mock import patch
from tests.one_process import RankThreads

opened, unit = [], UNIT
context = {"params": {"existing": "skip", "accept_rejections": True}, "run_id": "run 1"}
real = pipeline.open_warehouse

def counting(settings):
    opened[-1] += 1
    return real(settings)

rows = []
with planning({"params": {"model": None}, "run_id": "run 1", "dag": SimpleNamespace(params={"model": None})}) as work:
    resumed = work.decoding.fusion_id
pipeline.open_warehouse = counting
torchrun_operator.Torchrun = RankThreads
for run in (
    lambda: torchrun_operator.TorchrunOperator(task_id="fuse", unit=unit).execute(context)["rows"],
    lambda: validate.function(unit)["rows"],
    lambda: sum(list(LoadOperator(task_id="load", unit=unit).execute(context).values())[:2]),
):
    opened.append(0)
    with patch("dag_parts.get_current_context", lambda: context):
        rows.append(run())
print(json.dumps({"opened": opened, "rows": rows, "resumed": resumed}))
"""
        unit = planned[0]
        code = code.replace("UNIT", f"json.loads({unit.model_dump_json()!r})")
        found = run_code(plugins, code, settings)
    assert found == {"opened": [1, 1, 1], "rows": [unit.rows] * 3, "resumed": unit.fusion_id}


def test_a_unit_whose_model_is_not_on_the_node_is_recorded_as_failed(
    tmp_path: Path, plugins: PluginProcess, postgres: EmbeddedPostgres, tiny_model: Path
) -> None:
    write_sample_data(tmp_path / "shards", rows_per_day=16)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    with new_warehouse(postgres) as url:
        settings = settings_for(tmp_path / "shards", tmp_path / "home", url)
        unit = plan_day(settings.model_copy(update={"model": str(model), "num_beams": 2}), DAYS[0])[0]
        shutil.rmtree(model)
        code = f"""
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse import queries
from run_context import working
from torchrun_operator import TorchrunOperator
unit = json.loads({unit.model_dump_json()!r})
try:
    TorchrunOperator(task_id="fuse", unit=unit).execute({{}})
except InputError as error:
    raised = str(error)
with working() as work, work.warehouse.engine.connect() as connection:
    failed = queries.failed_units(connection)
print(json.dumps({{"raised": raised, "failed": failed}}))
"""
        found = run_code(plugins, code, settings)
    assert str(model) in found["raised"]
    assert found["failed"] == [[unit.unit_id, 1, found["raised"]]]


INTERVALS = """
from datetime import UTC, datetime
from types import SimpleNamespace
from capsfusion_tasks.errors import InputError
from run_context import interval_of, set_label, told, told_params

midnight = [datetime(2026, 11, day, tzinfo=UTC) for day in (10, 11)]
dates = dict(zip(("data_interval_start", "data_interval_end"), midnight))

def of(kind, day, **dates):
    context = {"run_id": "r", "params": {"day": day}, "dag_run": SimpleNamespace(run_type=kind), **dates}
    try:
        return told(interval_of(context))
    except InputError as error:
        return str(error)

usual = {"day": None, "limit": None, "existing": "skip"}
params = [{**usual, **changed} for changed in ({}, {"limit": 20, "existing": "replace"})]
labels = [{}, {}]
set_label(labels[0], "laion_2b/part-00000.parquet")
set_label(labels[1], "laion_2b/part-00000-fcd86c9b-36f4-49ff-bea1-8c9a0e029fb7-c000.snappy.parquet")
print(json.dumps({
    "intervals": [
        of("manual", None, **dates), of("backfill", None, **dates), of("manual", "2026-11-13", **dates),
        of("manual", "2026-11-13"), of("manual", None), of("backfill", "2026-11-13", **dates),
        of("manual", None, data_interval_start=midnight[0], data_interval_end=midnight[0].replace(hour=6)),
    ],
    "params": [told_params({"params": each, "dag": SimpleNamespace(params=usual)}) for each in params],
    "labels": [label["label"] for label in labels],
}))
"""


def test_the_interval_is_the_day_of_a_single_run_or_else_that_of_its_dates(plugins: PluginProcess) -> None:
    found = run_code(plugins, INTERVALS, Settings())
    *days, without, in_a_backfill, hours = found["intervals"]
    whole = "interval: 2026-11-{}, the whole day (UTC)"
    assert days == [whole.format(day) for day in (10, 10, 13, 13)]
    assert "trigger a run with the Param day, or backfill the days" in without
    assert in_a_backfill == (
        "the Param day is 2026-11-13, but a run of type backfill has its own dates: leave day empty"
    )
    assert hours == "interval: 2026-11-10 00:00 to 2026-11-10 06:00 (UTC)"
    assert found["params"] == ["Params: all at their defaults", "Params: limit 20, existing replace"]
    assert found["labels"] == [
        "laion_2b/part-00000.parquet",
        "laion_2b/part-00000-fcd86c9b-36f4-49ff-be….parquet",
    ]


MAP_LENGTHS = """
from capsfusion_tasks.errors import InputError
from map_length import max_tasks, require_mappable
require_mappable(3, "shards")
try:
    require_mappable(4, "shards")
except InputError as error:
    print(json.dumps({"most": max_tasks(), "error": str(error)}))
"""


def test_more_tasks_than_airflow_maps_is_an_error_with_the_number_to_set(plugins: PluginProcess) -> None:
    found = run_code(plugins, MAP_LENGTHS, Settings(), AIRFLOW__CORE__MAX_MAP_LENGTH="3")
    assert found["most"] == 3
    assert "4 shards need a task each, but Airflow allows 3: set AIRFLOW__CORE__MAX_MAP_LENGTH to 4" in found["error"]


@pytest.mark.parametrize("name", ["capsfusion", "capsfusion_replay"])
def test_every_task_that_others_are_mapped_over_checks_their_number(name: str) -> None:
    tree = ast.parse((REPOSITORY / "dags" / f"{name}.py").read_text())
    functions = {node.name: ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    expanded = re.findall(r"\.expand\(\w+=(\w+)", ast.unparse(tree))
    made_by = dict(re.findall(r"^\s*(\w+) = (\w+)\(\)$", ast.unparse(tree), re.MULTILINE))
    mapped = {made_by.get(each, each) for each in expanded}
    assert mapped >= {"plan"}
    assert not [each for each in mapped if "require_mappable(" not in functions[each]]
