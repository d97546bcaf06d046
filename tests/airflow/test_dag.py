"""Tests the DAGs as Airflow reads them, without a running Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.planning.unit_files import MAX_UNITS

REPOSITORY = Path(__file__).resolve().parents[2]

# Runs in its own process, as Airflow's parser does, because a test checks which modules are imported.
READ_DAGS = """
import copy, json, sys
from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])

def accepts(dag, conf):
    try:
        params = copy.deepcopy(dag.params)
        params.update(conf)
        params.validate()
    except ValueError:
        return False
    return True

def described(param):
    schema = param.schema
    return schema.get("title") and (param.description or schema.get("description_md"))

def facts(dag, confs):
    return {
        "modules": sorted(sys.modules),
        "doc": dag.doc_md,
        "catchup": dag.catchup,
        "owner": dag.owner,
        "tags": sorted(dag.tags),
        "max_active_tasks": dag.max_active_tasks,
        "timetable": type(dag.timetable).__name__,
        "params": {name: described(dag.params.get_param(name)) for name in dag.params},
        "accepts": [accepts(dag, conf) for conf in confs],
        "tasks": {
            task.task_id: {
                "upstream": sorted(task.upstream_task_ids),
                "mapped": task.is_mapped or task.get_closest_mapped_task_group() is not None,
                "pool": task.pool,
                "queue": task.queue,
                "retries": task.retries,
                "weight_rule": str(task.weight_rule),
                "has_timeout": task.execution_timeout is not None,
            }
            for task in dag.tasks
        },
    }

errors = {str(file): error for file, error in bag.import_errors.items()}
dags = {name: facts(bag.dags[name], confs) for name, confs in json.loads(sys.argv[2]).items() if name in bag.dags}
print(json.dumps({"errors": errors, "dags": dags}))
"""

GOOD = [
    {},
    {"model": "BAAI/CapsFus-LLaMA", "num_beams": 16, "limit": 1, "existing": "replace"},
    {"keep_beams": True},
    {"prompt": "/prompts/short.txt"},
    {"model": None, "num_beams": None, "keep_beams": None, "limit": None, "max_gpu_hours": None, "export_to": None},
    {"max_gpu_hours": 0.5, "max_cost": 100, "export_to": "/data/captions"},
    {"export_to": "s3://bucket/captions", "day": "2026-11-10"},
    {"export_to": "hf://datasets/owner/name@branch/folder"},
]
BAD = [{"num_beams": 0}, {"num_beams": 17}, {"num_beams": "3"}, {"limit": 0}, {"existing": "drop"}, {"model": ""}]
BAD += [
    {"keep_beams": "yes"},
    {"prompt": ""},
    {"day": "yesterday"},
    {"day": "10.11.2026"},
    {"max_gpu_hours": -1},
    {"max_cost": "much"},
    {"export_to": "captions"},
    {"export_to": "/"},
    {"export_to": ""},
]
BAD += [{"export_to": place} for place in ("gs://b/p", "http://x/y", "abfs://c/d", "hf://models/a/b", "s3://")]

SLOW = {"torch", "transformers", "pyarrow", "duckdb", "numpy", "psycopg", "huggingface_hub", "boto3", "sentencepiece"}

REPLAY_GOOD = [
    {},
    {"reason": None},
    {"reason": ["truncated", "repetition"], "fusion_id": "81d0e4c2a95b", "limit": 9, "accept_rejections": False},
    {"start": "2026-11-10T00:00:00Z", "end": "2026-11-11T00:00:00+01:00", "existing": "replace"},
    {"max_new_tokens": 120, "dtype": "float32", "num_beams": 5, "model": "x/y", "prompt": "/p", "max_cost": 3},
    {"filter": {"words": "bicycle", "score": "novelty", "score_min": 0.5}},
]
EXPORT_GOOD: list[dict[str, Any]] = [
    {"export_to": "s3://bucket/kept"},
    {"export_to": "/shared/kept", "filter": {"words": "bicycle"}, "columns": "all", "limit": 9},
]
EXPORT_BAD: list[dict[str, Any]] = [
    {},
    {"export_to": "kept"},
    {"export_to": "gs://b/p"},
    {"export_to": "/kept", "filter": "words"},
]
REPLAY_BAD = [{"reason": ["ugly"]}, {"reason": "truncated"}, {"start": "yesterday"}, {"max_new_tokens": 0}]
REPLAY_BAD += [{"dtype": "int8"}, {"fusion_id": ""}, {"limit": 0}, {"existing": "drop"}, {"max_gpu_hours": -1}]


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Airflow reads from each DAG."""
    confs = {
        "capsfusion": GOOD + BAD,
        "capsfusion_replay": REPLAY_GOOD + REPLAY_BAD,
        "capsfusion_export": EXPORT_GOOD + EXPORT_BAD,
    }
    return read_dags(confs, tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="module")
def facts(dags: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dags["capsfusion"]


@pytest.fixture(scope="module")
def replay(dags: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dags["capsfusion_replay"]


@pytest.fixture(scope="module")
def export(dags: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dags["capsfusion_export"]


@pytest.fixture(params=["facts", "replay"])
def each(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What Airflow reads from a DAG. Each test runs twice: with ``capsfusion`` and with ``capsfusion_replay``."""
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def read_dags(confs: dict[str, list[dict[str, Any]]], home: Path) -> dict[str, dict[str, Any]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "CAPSFUSION_"))}
    environment = {
        **inherited,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    command = [sys.executable, "-c", READ_DAGS, str(REPOSITORY / "dags"), json.dumps(confs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["errors"] == {}
    dags: dict[str, dict[str, Any]] = found["dags"]
    return dags


def test_the_tasks_are_wired_in_the_order_the_data_flows(facts: dict[str, Any]) -> None:
    upstream = {name: task["upstream"] for name, task in facts["tasks"].items()}
    assert upstream == {
        "discover": [],
        "pull": ["discover"],
        "share_buckets": ["pull"],
        "pair": ["share_buckets"],
        "plan": ["pair"],
        "fuse": ["plan"],
        "validate": ["fuse", "plan"],
        "load": ["plan", "validate"],
        "ask": ["load"],
        "load_held": ["ask"],
        "export": ["load", "load_held"],
        # check waits not only for export: if a task fails, Airflow skips export at once, while other tasks still run.
        "check": ["export", "load", "load_held", "pair"],
        "announce": ["check"],
        "report": ["announce"],
    }
    assert [name for name, task in facts["tasks"].items() if task["mapped"]] == [
        "pull",
        "pair",
        "fuse",
        "validate",
        "load",
        "load_held",
    ]


def test_a_replay_has_the_tasks_of_a_unit_between_its_plan_and_its_report(replay: dict[str, Any]) -> None:
    assert {name: task["upstream"] for name, task in replay["tasks"].items()} == {
        "plan": [],
        "fuse": ["plan"],
        "validate": ["fuse", "plan"],
        "load": ["plan", "validate"],
        "ask": ["load"],
        "load_held": ["ask"],
        "announce": ["load", "load_held"],
        "report": ["announce"],
    }
    assert [name for name, task in replay["tasks"].items() if task["mapped"]] == [
        "fuse",
        "validate",
        "load",
        "load_held",
    ]
    assert replay["timetable"] == "NullTimetable"


def test_only_fuse_waits_for_a_gpu(each: dict[str, Any]) -> None:
    assert {name for name, task in each["tasks"].items() if task["pool"] == "gpu"} == {"fuse"}
    assert {name for name, task in each["tasks"].items() if task["queue"] == "gpu"} == {"fuse"}


def test_as_many_units_as_there_are_gpus_are_at_work_and_each_is_loaded_before_more_are_fused(
    each: dict[str, Any],
) -> None:
    assert each["max_active_tasks"] >= MAX_UNITS
    assert {task["weight_rule"] for task in each["tasks"].values()} == {"upstream"}


def test_every_task_has_a_time_limit_and_is_tried_again(each: dict[str, Any]) -> None:
    assert all(task["has_timeout"] and task["retries"] >= 1 for task in each["tasks"].values())


def test_a_run_has_a_day_long_interval_and_old_days_do_not_start_by_themselves(facts: dict[str, Any]) -> None:
    # With a plain cron string as schedule, each interval would end at the moment when it starts.
    assert facts["timetable"] == "CronDataIntervalTimetable"
    assert facts["catchup"] is False


def test_parsing_a_dag_imports_no_library_that_only_tasks_need(each: dict[str, Any]) -> None:
    """Airflow parses all DAG files every 30 seconds. With these libraries, that would take a second each time."""
    assert not SLOW & set(each["modules"])


def test_the_dag_is_documented(each: dict[str, Any]) -> None:
    assert each["owner"] == "capsfusion"
    assert each["tags"] == ["capsfusion"]
    assert all(f"`{task}`" in each["doc"] for task in each["tasks"])
    assert all(f"`{param}" in each["doc"] for param in each["params"])
    assert all(each["params"].values())


def test_params_are_checked(facts: dict[str, Any]) -> None:
    assert facts["accepts"] == [True] * len(GOOD) + [False] * len(BAD)


def test_params_of_a_replay_are_checked(replay: dict[str, Any]) -> None:
    assert replay["accepts"] == [True] * len(REPLAY_GOOD) + [False] * len(REPLAY_BAD)


def test_an_export_of_a_filter_is_one_task_that_goes_on_when_it_is_tried_again(export: dict[str, Any]) -> None:
    assert {name: task["upstream"] for name, task in export["tasks"].items()} == {"export": []}
    assert export["tasks"]["export"]["has_timeout"]
    assert export["tasks"]["export"]["retries"] >= 1
    assert export["accepts"] == [True] * len(EXPORT_GOOD) + [False] * len(EXPORT_BAD)
    assert all(f"`{name}" in export["doc"] for name in [*export["tasks"], *export["params"]])
    assert not SLOW & set(export["modules"])
