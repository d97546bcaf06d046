"""Runs the commands of docs/first-hour.md, in the order of the page, as a reader types them.

Commands and ranks run in this process. Commands that need a GPU or the hub are only parsed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.tasks.local_run import run_pipeline
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from tests.conftest import new_warehouse

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_process")]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "first-hour.md").read_text()
COMMANDS = re.findall(r"^ {4}(\S.*)$", PAGE, flags=re.MULTILINE)
ON_A_GPU = "BAAI/CapsFus-LLaMA"
SHELL = ("head", "printf", "mkdir", "cp")


@pytest.fixture
def typed(tmp_path: Path, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The output of each command of the page, typed in a clone in which `make demo` has run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", "examples")
    for name in [name for name in os.environ if name.startswith("CAPSFUSION_") and name != "CAPSFUSION_DEVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("CAPSFUSION_NUM_BEAMS", "1")  # greedy decoding, which takes a third of the time
    monkeypatch.setenv("CAPSFUSION_BUCKETS", "2")  # 16 buckets, the default for few rows, almost double the time
    with new_warehouse(postgres) as demo, new_warehouse(postgres) as trial:
        monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", demo)
        sample = write_sample_data(Path("demo"), rows_per_day=10, days=1)
        settings = load_settings(laion2b=f"demo/{FOLDER['laion_2b']}", laion_coco=f"demo/{FOLDER['laion_coco']}")
        day = datetime.combine(sample.days[0].day, time(), UTC)
        run_pipeline(settings, Interval(start=day, end=day + timedelta(days=1)), say=lambda line: None)
        printed = {}
        for command in COMMANDS:
            printed[command] = _type(command, monkeypatch)
            if "CAPSFUSION_HOME=" in command:  # a new home has its own warehouse
                monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", trial)
        yield printed


def _type(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    words = shlex.split(command)
    if words[0] == "make":
        recipe = rf"^{words[1]}: \$\(INSTALLED\)\n\t@\$\(BIN\)/capsfusion {words[1]}$"
        assert re.search(recipe, (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "export":
        for name, _, value in (word.partition("=") for word in words[1:]):
            monkeypatch.setenv(name, value.replace("$PWD", os.getcwd()))
    elif words[0] == "capsfusion" and ON_A_GPU in words:
        _parse(words[1:])
    elif words[0] == "capsfusion":
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, f"{command}: {done.output} {done.exception!r}"
        return done.output
    elif words[0] in SHELL:
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    else:
        assert command == ". .venv/bin/activate"
    return ""


def _parse(words: list[str]) -> None:
    """Check the command's arguments, options and option values without running it."""
    from typer.main import get_command

    group = get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    context = command.make_context(words[0], words[1:], parent=group.make_context("capsfusion", [words[0]]))
    assert context.params["model"] == ON_A_GPU


def test_its_commands_do_what_it_says(typed: dict[str, str]) -> None:
    assert len(COMMANDS) > 20
    captions = [json.loads(line) for line in Path("fused.jsonl").read_text().splitlines()]
    assert len(captions) == 16
    assert all(row["capsfusion"] for row in captions)
    mine = pq.read_table("mine.parquet").to_pylist()
    assert [(row["sku"], row["capsfusion"] is None) for row in mine] == [("7", False), ("8", True)]
    said = "".join(typed.values())
    assert "row 2 (8) has no fused caption: alt is empty" in said
    assert os.listdir("fused-shards") == ["part-0.jsonl"]
    assert "reasons" in Path("fused.html").read_text()
    status = [text for command, text in typed.items() if command == "capsfusion status"][-1]
    assert "demo/model (the bundled demo model, a toy)" in status
    assert pq.read_table("captions").num_rows > 20
