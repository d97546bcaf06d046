"""Tests what a task takes from Airflow's context and Connections, without a running Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin_process import PluginProcess

CODE = """
import json, os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from airflow.sdk import Connection
from capsfusion_tasks.errors import InputError
from run_context import interval_of, told, use_aws_connection

def s3_variables(**connection):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    others = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL_S3")
    os.environ.update({f"AWS_{name}": "other" for name in others})
    Connection.get = lambda conn_id: Connection(conn_id=conn_id, conn_type="aws", **connection)
    use_aws_connection()
    return {name.removeprefix("AWS_"): value for name, value in os.environ.items() if name.startswith("AWS_")}

def of(kind, start, logical, day=None):
    midnight = datetime(2026, 11, start, tzinfo=UTC)
    dates = {"data_interval_start": midnight, "data_interval_end": midnight + timedelta(days=1)}
    dates["logical_date"] = datetime(2026, 11, *logical, tzinfo=UTC)
    try:
        context = {"run_id": "r", "params": {"day": day}, "dag_run": SimpleNamespace(run_type=kind), **dates}
        return told(interval_of(context)).split(",")[0]
    except InputError as error:
        return str(error)

token, endpoint = {"aws_session_token": "token"}, {"endpoint_url": "http://minio"}
print(json.dumps({
    "keys": s3_variables(login="key", password="secret"),
    "token": s3_variables(login="key", password="secret", extra=json.dumps(token)),
    "endpoint": s3_variables(extra=json.dumps(endpoint)),
    "own": [of("scheduled", 19, (19, 0)), of("backfill", 19, (19, 0)), of("manual", 19, (20, 8))],
    "own day": of("manual", 19, (20, 8), "2026-11-10"),
    "midnight": [of("manual", 19, (20, 0)), of("manual", 19, (20, 0), "2026-11-20")],
    "taken over": of("backfill", 19, (20, 0)),
}))
"""


@pytest.fixture(scope="module")
def found(plugins: PluginProcess) -> dict[str, Any]:
    """What CODE prints. It runs in its own process, as a task does."""
    answer: dict[str, Any] = plugins.answer(CODE, CAPSFUSION_AWS_CONN_ID="store")
    return answer


def test_the_keys_of_a_connection_are_not_mixed_with_those_of_another_credential(found: dict[str, Any]) -> None:
    keys = {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}
    assert found["keys"] == {**keys, "ENDPOINT_URL_S3": "other"}
    assert found["token"] == {**keys, "SESSION_TOKEN": "token", "ENDPOINT_URL_S3": "other"}


def test_a_connection_without_keys_sets_only_the_endpoint_which_then_holds(found: dict[str, Any]) -> None:
    others = dict.fromkeys(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"), "other")
    assert found["endpoint"] == {**others, "ENDPOINT_URL": "http://minio"}


def test_a_run_has_the_interval_of_its_own_dates_or_the_day_that_it_was_given(found: dict[str, Any]) -> None:
    assert found["own"] == ["interval: 2026-11-19"] * 3
    assert found["own day"] == "interval: 2026-11-10"


def test_a_run_in_the_place_of_another_day_is_refused_so_that_the_day_is_not_left_out(found: dict[str, Any]) -> None:
    for refused in [*found["midnight"], found["taken over"]]:
        assert "run r has the logical date 2026-11-20 00:00, which belongs to the run of" in refused
        assert "but this run's own interval starts at 2026-11-19 00:00." in refused
        assert "that interval would never run. Delete this run." in refused
