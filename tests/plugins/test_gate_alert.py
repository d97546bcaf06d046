"""Tests the message about the held units of a run, without a running Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from tests.plugin_process import PluginProcess

# Runs the task `validate` of several units in its own process, as Airflow does.
CODE = """
import json, os
from contextlib import nullcontext
from types import SimpleNamespace
import dag_parts, webhook_alert
from airflow.sdk import Connection
from capsfusion_tasks.tasks import gate_tasks, unit_tasks

unit = {"unit_id": "20261110-0", "fusion_id": "f", "rows": 9, "tokens": 9}
counts = {"rows": 9, "accepted": 1, "rejected": 8, "rescued": 0, "flags": {}, "already_loaded": False}
counts |= {"reasons": {"copy": 5, "loop": 4, "short": 2, "leak": 1}, "problem": "that is more than 25%"}
context = {"run_id": "run 1", "params": {"accept_rejections": False}, "ti": SimpleNamespace(dag_id="capsfusion")}
sent = []
told = set()  # runs whose message was sent


def tell_once(work, unit, dag_run_id, send):
    if dag_run_id in told or send():
        told.add(dag_run_id)


def post(self, url):
    sent.append([url, self.text])
    if url == "broken":
        raise OSError("no answer")


def validate(held, run="run 1", hours=24):
    context["run_id"] = run
    gate = SimpleNamespace(answer_hours=hours)
    work = SimpleNamespace(settings=SimpleNamespace(gate=gate, staging_uri="s3://b/{{ staging }}/"))
    dag_parts.working = lambda: nullcontext(work)
    dag_parts.get_current_context = lambda: context
    unit_tasks.validate = lambda *_, **__: counts | {"held": held}
    done = dag_parts.validate.function(unit)
    texts = sent[:]
    sent.clear()
    return {"sent": texts, "label": context["label"], "held": done["held"]}


gate_tasks.tell_once = tell_once
webhook_alert.WebhookAlert._post = post
found = {"no webhook": validate(True)}
os.environ["CAPSFUSION_ALERT_CONN_ID"] = "alerts"
Connection.get = lambda conn_id: {}[conn_id]
found["no such Connection"] = validate(True)
Connection.get = lambda conn_id: Connection(conn_id=conn_id, conn_type="http", password="broken")
found["broken webhook"] = validate(True)
Connection.get = lambda conn_id: Connection(conn_id=conn_id, conn_type="http", password="hook")
found |= {"passes": validate(False), "first": validate(True), "another": validate(True)}
found["nobody is asked"] = validate(True, "run 2", hours=0)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(plugins: PluginProcess) -> dict[str, Any]:
    """What each task has sent, and its label."""
    answer: dict[str, Any] = plugins.answer(CODE, AIRFLOW__API__BASE_URL="https://airflow.example.org/a")
    return answer


def test_the_first_held_unit_that_can_be_told_is_told_with_what_is_wrong_where_and_what_to_do(
    found: dict[str, Any],
) -> None:
    [[url, text]] = found["first"]["sent"]
    assert url == "hook"
    assert text == (
        "capsfusion holds a unit of run run 1: 8 of 9 captions of unit 20261110-0 are rejected (copy, loop, short), and"
        " that is more than 25%. The unit is not loaded, and the run goes on with its other units. If the model, the"
        " prompt or a source is wrong, mark the run as failed now, correct the mistake, and trigger a new run. If"
        " not, wait for the end of the run: it asks whether to load the held units. The run's page:"
        " https://airflow.example.org/a/dags/capsfusion/runs/run%201 All verdicts:"
        " s3://b/{{ staging }}/units/20261110-0/validated.parquet"
    )
    [[_, text]] = found["nobody is asked"]["sent"]
    assert "it fails, because CAPSFUSION_GATE__ANSWER_HOURS is 0. To load held units, run it again with" in text


def test_other_units_and_runs_without_a_webhook_send_nothing(found: dict[str, Any]) -> None:
    assert [found[name]["sent"] for name in ("another", "passes", "no webhook")] == [[], [], []]


def test_a_webhook_that_fails_does_not_fail_the_task(found: dict[str, Any]) -> None:
    assert [url for url, _ in found["broken webhook"]["sent"]] == ["broken"]
    for name in ("broken webhook", "no such Connection"):
        assert found[name]["held"]
        assert found[name]["label"].startswith("held: ")
