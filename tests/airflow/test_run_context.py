"""What tasks take from Airflow, without a running Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import json, os, sys
sys.path.insert(0, "plugins")
from run_context import settings_of
settings_of({"params": {"model": None, "num_beams": None}})
print(json.dumps({name: value for name, value in os.environ.items() if name.startswith("AWS_")}))
"""


def run_with(tmp_path: Path, connection: dict[str, object] | None) -> subprocess.CompletedProcess[str]:
    """A task's process, in which CAPSFUSION_AWS_CONN_ID names ``connection``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env |= {"CAPSFUSION_AWS_CONN_ID": "store", "AIRFLOW_HOME": str(tmp_path)}
    if connection is not None:
        env["AIRFLOW_CONN_STORE"] = json.dumps(connection)
    return subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, env=env, capture_output=True, text=True)


def test_a_connection_supplies_keys_and_endpoint_of_s3(tmp_path: Path) -> None:
    extra = {"region_name": "eu-west-1", "endpoint_url": "http://minio:9000"}
    done = run_with(tmp_path, {"conn_type": "aws", "login": "the-key", "password": "the-secret", "extra": extra})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "AWS_ACCESS_KEY_ID": "the-key",
        "AWS_SECRET_ACCESS_KEY": "the-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://minio:9000",
    }


def test_a_connection_that_is_not_there_or_asks_for_more_is_refused(tmp_path: Path) -> None:
    assert "InputError: no Connection store, which CAPSFUSION_AWS_CONN_ID names" in run_with(tmp_path, None).stderr
    done = run_with(tmp_path, {"conn_type": "aws", "login": "k", "extra": {"role_arn": "arn:aws:iam::1:role/x"}})
    assert "InputError: Connection store has role_arn in its extra" in done.stderr


def test_a_replay_is_of_the_daily_fusion_unless_its_params_say_another(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, "plugins")
from run_context import replay_of, settings_of
from capsfusion_tasks.fusion.identity import identify
params = {"reason": ["copy"], "fusion_id": None, "start": None, "end": "2026-11-10T01:00:00+01:00", "limit": 3}
context = {"run_id": "manual", "params": {**params, "num_beams": 5, "max_new_tokens": 7}}
found, settings = replay_of(context), settings_of(context)
assert found.fusion_id == identify(settings.model_copy(update={"num_beams": 2, "max_new_tokens": 80})).fusion_id
assert (settings.num_beams, settings.max_new_tokens) == (5, 7)
context["params"]["fusion_id"] = "abc"
print(replay_of(context).model_dump_json())
"""
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "CAPSFUSION_NUM_BEAMS": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "name": "manual",
        "fusion_id": "abc",
        "reasons": ["copy"],
        "loaded_from": None,
        "loaded_before": "2026-11-10T00:00:00Z",
        "limit": 3,
    }
