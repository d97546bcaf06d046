"""What the demo prints at its end."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.demo.phases import introduction
from capsfusion_tasks.demo.progress import DayRun, table_of
from capsfusion_tasks.demo.results import show_next_steps
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.rejections import reasons_line


@pytest.mark.parametrize(
    ("rejected", "reasons", "line"),
    [
        (1, {"copy": 1}, "rejected: 1 caption, 1 reason: 1 copy"),
        (3, {"copy": 2, "truncated": 1}, "rejected: 3 captions, 3 reasons: 2 copy + 1 truncated"),
        (
            2,
            {"repetition": 2, "truncated": 1},
            "rejected: 2 captions, 3 reasons: 2 repetition + 1 truncated; a caption can have several reasons",
        ),
    ],
)
def test_counts_of_rejections_add_up(rejected: int, reasons: dict[str, int], line: str) -> None:
    assert reasons_line(rejected, reasons) == line


def test_the_demo_calls_its_model_a_toy_only_if_it_is_the_bundled_one() -> None:
    assert "Made-up captions, toy model" in introduction(Settings())
    assert "toy" not in introduction(Settings(model="BAAI/CapsFus-LLaMA"))


@pytest.mark.parametrize("home", [".capsfusion", "elsewhere"])
def test_the_commands_that_the_demo_prints_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(width=500, record=True, quiet=False, soft_wrap=True)
    show_next_steps(Settings(home=Path(home)), console)
    commands = [shlex.split(line) for line in console.export_text().splitlines() if line.startswith("    ")]
    assert len(commands) == 5
    for words in commands:
        if home == "elsewhere" and "fuse" not in words:
            assert words.pop(0) == f"CAPSFUSION_HOME={tmp_path / home}"
        assert Path(words[0]).name == "capsfusion"
        options = [word for word in words if word.startswith("--")]
        shown = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0
        assert all(option in shown.output for option in options)


def test_the_table_of_a_backfill_fits_into_eighty_columns_and_counts_instances() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    tasks = {"discover": ["success"], "pull": ["success", "running", None, None], "fuse": ["failed"]}
    console.print(table_of([DayRun(f"2026-11-1{n}", "running", tasks) for n in range(3)]))
    lines = {
        words[0]: words[1:] for line in console.export_text().splitlines() if (words := re.findall(r"[^│┃\s]+", line))
    }
    assert lines["task"] == ["2026-11-10", "2026-11-11", "2026-11-12"]
    assert lines["discover"] == ["1/1"] * 3
    assert lines["pull"] == ["1/4"] * 3
    assert lines["fuse"] == ["0/1", "failed"] * 3
    assert lines["load"] == ["·"] * 3
