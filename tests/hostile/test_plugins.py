"""Hostile texts do no harm in Airflow's UI and in alerts. The plugins run in a separate process, as in Airflow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import json, socket, sys, threading, traceback
sys.path.insert(0, "plugins")
from run_note import UNCHECKED, as_note, compose
from airflow.sdk import Connection
from webhook_alert import TaskAlert, WebhookAlert

said = []
for url in json.loads(sys.argv[1]):
    try:
        WebhookAlert("alerts", "a text")._post(url)
    except Exception:
        said.append(traceback.format_exc())

def no_http(server):
    connection, _ = server.accept()
    connection.recv(9999)
    connection.sendall(b"SSH-2.0-pl4nted\\r\\n")
    connection.close()

with socket.create_server(("127.0.0.1", 0)) as server:
    answering = threading.Thread(target=no_http, args=[server])
    answering.start()
    try:
        WebhookAlert("alerts", "a text")._post(f"http://127.0.0.1:{server.getsockname()[1]}/pl4nted")
    except Exception:
        said.append(traceback.format_exc())
    answering.join()
Connection.get = lambda conn_id: Connection(conn_id=conn_id, conn_type="http", password=sys.argv[3])
TaskAlert("alerts", "a question").notify({})  # would raise
TaskAlert._post = lambda self, url: {}["no such key"]
TaskAlert("alerts", "a question").notify({})
report = {"headline": "1 accepted", "failures": ["unit u failed"], "lines": ["units: 2"]}
checked = [{"findings": 1, "text": "check: lost"}, {"findings": 0, "text": "check: nothing is wrong"}, UNCHECKED, None]
composed = [compose(report, each).splitlines() for each in checked]
print(json.dumps({"composed": composed, "notes": [as_note(text) for text in json.loads(sys.argv[2])], "said": said}))
"""
URLS = ["hooks.example.org/pl4nted", "file:///etc/pl4nted", "http://127.0.0.1:1/pl4nted", "http:///pl4nted", None]
URLS += [
    "http://[bad/pl4nted",
    "http://127.0.0.1:80a/pl4nted",
    "http://127.0.0.1:1/T0/ B0/pl4nted",
    "http://a\n/pl4nted",
]
URLS += ["http://127.0.0.1:1/é/pl4nted", f"http://{'a' * 70}/pl4nted"]
REPORTS = [
    "2 accepted, 0 rejected, 0 findings\nunits: 1\n\nshard laion_2b/![x](https://evil.example/x.png).parquet failed:"
    " <img src=x>\n- [a](javascript:b)\na `code` span and ``another`\nsee www.evil.example",
    "1 failure\nshard failed: " + "x" * 5000 + "\n" + "shard failed: cannot be read\n" * 100,
    "\n".join(["1 failure", "x" * 400, "y" * 400, "z" * (1000 - 9 - 2 * 403 - 1 - 4)]),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    argv = [sys.executable, "-c", CODE, json.dumps(URLS), json.dumps(REPORTS), "http://[bad/pl4nted"]
    environment = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_note_is_text_for_the_ui_which_renders_markdown(found: dict[str, Any]) -> None:
    assert found["notes"][0].split("\n") == [
        "2 accepted, 0 rejected, 0 findings",
        "",
        "- units: 1",
        "- `shard laion_2b/![x](https://evil.example/x.png).parquet failed: <img src=x>`",
        "- `- [a](javascript:b)`",
        "- ``` a `code` span and ``another` ```",
        "- `see www.evil.example`",
    ]


def test_a_note_begins_with_what_failed(found: dict[str, Any]) -> None:
    failed, done = "unit u failed", "units: 2"
    assert found["composed"] == [
        ["1 accepted, 1 finding", failed, "check: lost", done],
        ["1 accepted, 0 findings", failed, done, "check: nothing is wrong"],
        ["1 accepted, the check failed", failed, done, "check: no result, because the task check failed"],
        ["1 accepted", failed, done],
    ]


def test_a_note_fits_airflows_column(found: dict[str, Any]) -> None:
    assert 900 < len(found["notes"][1]) <= 1000
    assert found["notes"][1].endswith("\n- … the log of the report task has the rest")
    assert len(found["notes"][2]) <= 1000
    assert "z" in found["notes"][2], "what fits is not cut"


def test_an_alert_that_cannot_be_sent_keeps_its_address(found: dict[str, Any]) -> None:
    assert len(found["said"]) == len(URLS) + 1, "and the server that does not speak HTTP"
    assert "pl4nted" not in "".join(found["said"])
    assert "(BadStatusLine)" in found["said"][-1]
