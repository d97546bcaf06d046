"""Runs the commands of docs/models.md, in the order of the page, as a reader types them.

Commands and ranks run in this process. `/models/qwen3-4b` is a random Qwen3 of a few layers. Commands with a model of
the hub are only parsed, by test_commands_of_pages.py.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.families import write_family
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.cli import app
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.tasks.local_run import run_pipeline
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.sql import execute_sql

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_process")]

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
COMMANDS = re.findall(r"^ {4}capsfusion (.*)$", PAGE, re.MULTILINE)
[PROMPT] = re.findall(r"(?:^ {4}(?!capsfusion).*\n)*^ {4}.*\{raw\}\n(?:^ {4}.*\n)*", PAGE, re.MULTILINE)
ON_THE_HUB = re.compile(r"--model \w+/")
FIRST_DAY = datetime(2026, 11, 10, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, tiny_model: Path, warehouse_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's folder: a model, the page's prompt, a file of pairs, and shards of four days (the last is fused)."""
    monkeypatch.chdir(tmp_path)
    write_sample_data(tmp_path, rows_per_day=6, days=4)
    for name, value in {
        "HOME": tmp_path / "home",
        "WAREHOUSE_URL": warehouse_url,
        "LAION2B": tmp_path / FOLDER["laion_2b"],
        "LAION_COCO": tmp_path / FOLDER["laion_coco"],
        "MODEL": tiny_model,
        "BUCKETS": 1,
        "NUM_BEAMS": 1,
        "MAX_NEW_TOKENS": 4,  # so few that all captions are cut off
    }.items():
        monkeypatch.setenv(f"CAPSFUSION_{name}", str(value))
    last = FIRST_DAY + timedelta(days=3)
    run_pipeline(load_settings(), Interval(start=last, end=last + timedelta(days=1)), say=lambda line: None)
    write_family(tmp_path / "models" / "qwen3-4b", "Qwen3", [PAGE], BUNDLED_MODEL / "tokenizer.model")
    Path("prompt.txt").write_text(re.sub(r"^ {4}", "", PROMPT, flags=re.MULTILINE))
    Path("pairs.jsonl").write_text(json.dumps({"laion_2b": "Rex, 2019", "laion_coco": "a dog on grass"}) + "\n")
    return tmp_path


def test_its_commands_do_what_it_says(home: Path, tiny_model: Path) -> None:
    for command in COMMANDS:
        if not ON_THE_HUB.search(command):
            done = CliRunner().invoke(app, shlex.split(command.replace("/models/", f"{home}/models/")))
            assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
    tiny = f"{tiny_model.parent.name}/tiny"
    [fused] = [json.loads(line) for line in Path("fused.jsonl").read_text().splitlines()]
    assert fused["capsfusion"]
    with open_warehouse(load_settings()) as warehouse:
        made = execute_sql(
            warehouse,
            "select model, spec->'decoding'->>'prompt' as prompt, count(interval_start) as of_runs,"
            " count(replay) as of_replays from work_units join fusions using (fusion_id) group by 1, 2 order by 1, 2",
        ).to_pylist()
        moved = execute_sql(warehouse, "select count(*) as rows from replayed_captions").to_pylist()
    assert made == [
        {"model": "models/qwen3-4b", "prompt": None, "of_runs": 1, "of_replays": 0},
        {"model": tiny, "prompt": Path("prompt.txt").read_text()[:-1], "of_runs": 1, "of_replays": 1},
        {"model": tiny, "prompt": None, "of_runs": 1, "of_replays": 0},
    ]
    assert moved[0]["rows"] > 0
