"""What Airflow's UI and an alert are given, in a process of its own, as Airflow's are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import json, sys, traceback
sys.path.insert(0, "plugins")
from run_note import as_note
from webhook_alert import WebhookAlert

said = []
for url in json.loads(sys.argv[1]):
    try:
        WebhookAlert("alerts", "a text")._post(url)
    except Exception:
        said.append(traceback.format_exc())
print(json.dumps({"notes": [as_note(text) for text in json.loads(sys.argv[2])], "said": said}))
"""
URLS = ["hooks.example.org/pl4nted", "file:///etc/pl4nted", "http://127.0.0.1:1/pl4nted", "http:///pl4nted", None]
REPORTS = [
    "units: 1\n\nshard laion_2b/![x](https://evil.example/x.png).parquet failed: <img src=x>\n- [a](javascript:b)",
    "shard failed: " + "x" * 50 + "\n" + "shard failed: cannot be read\n" * 100,
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    argv = [sys.executable, "-c", CODE, json.dumps(URLS), json.dumps(REPORTS)]
    environment = {"PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))}
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_note_is_text_for_the_ui_which_renders_markdown(found: dict[str, list[str]]) -> None:
    head, nothing, *lines = found["notes"][0].split("\n")
    assert (head, nothing) == ("Report:", "")
    assert [line for line in lines if line and not line.startswith("    ")] == []
    assert "![x](https://evil.example/x.png)" in found["notes"][0]


def test_a_note_fits_airflows_column(found: dict[str, list[str]]) -> None:
    assert len(found["notes"][1]) == 1000
    assert found["notes"][1].endswith("the log of the task report has the rest")


def test_an_alert_that_cannot_be_sent_keeps_its_address(found: dict[str, list[str]]) -> None:
    assert len(found["said"]) == len(URLS)
    assert "pl4nted" not in "".join(found["said"])
