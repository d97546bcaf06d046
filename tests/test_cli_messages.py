"""Tests the command line's messages about versions, homes, interruptions and errors. Commands run in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from capsfusion_tasks import __version__
from capsfusion_tasks.cli import main
from capsfusion_tasks.cli.settings import settings_page
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.terminal import print_rows
from capsfusion_tasks.variables import unusable
from tests.command import main_undone

ROOT = Path(__file__).parents[1]


def exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["capsfusion", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test runs in an empty folder. At the end, restores what ``main`` changes in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("CAPSFUSION_HOME", "CAPSFUSION_WAREHOUSE_URL"):
        monkeypatch.delenv(name, raising=False)
    with main_undone():
        yield


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"capsfusion {__version__}\n"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("GOMP_CPU_AFFINITY", "all", "expected ids of CPU cores"),  # libgomp would hang
        ("GOMP_CPU_AFFINITY", "1:3", "expected ids of CPU cores"),
        ("NUMPY_MADVISE_HUGEPAGE", "always", "expected 0 or 1"),
    ],
)
def test_a_variable_that_a_library_does_not_survive_is_refused_before_the_import(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert exit_code(monkeypatch, "status") == 2
    assert f"{name} is {value!r}: {expected}" in capsys.readouterr().err
    assert exit_code(monkeypatch, "--version") == 0
    for accepted in ("", "0", "0-3", "0,2", "0 3 1-2 4-15:2"):
        assert not unusable({"GOMP_CPU_AFFINITY": accepted})


@pytest.mark.parametrize(
    "arguments", [["status"], ["sql", "select 1"], ["plan"], ["check"], ["gc"], ["export", "captions"], ["sql"]]
)
def test_a_command_that_only_reads_creates_nothing_and_says_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    assert exit_code(monkeypatch, *arguments) == 2
    assert f"there is no warehouse in {tmp_path}/.capsfusion yet" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_command_that_only_reads_says_which_home_it_looks_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home" / "postgres").mkdir(parents=True)
    # An old version of PostgreSQL, so that the command fails before it starts a server.
    (tmp_path / "home" / "postgres" / "PG_VERSION").write_text("9\n")
    monkeypatch.setenv("CAPSFUSION_HOME", "home")
    assert exit_code(monkeypatch, "status") == 2
    assert f"warehouse: {tmp_path}/home\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such file"), 2, "capsfusion: error: no such file\n"),
        (NotReadyError("no space: make room"), 75, "capsfusion: not now: no space: make room\n"),
        (KeyboardInterrupt(), 130, "capsfusion: interrupted. Finished rows are kept in {cwd}/out.jsonl.parts. "),
    ],
)
def test_how_a_command_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("capsfusion_tasks.fusion.files.fuse_files", fail)
    assert exit_code(monkeypatch, "fuse", "in.jsonl", "out.jsonl") == code
    assert said.format(cwd=Path.cwd()) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["fuse", "~/in.jsonl", "~/out.jsonl"], "{home}/in.jsonl"),
        (["validate", "~/in.jsonl", "--out=~/out.parquet"], "{home}/in.jsonl"),
        (["fuse", "~nobody-of-this-name/in.jsonl", "out.jsonl"], "has no such home folder"),
    ],
)
def test_a_tilde_in_an_argument_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    found: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me").mkdir()
    assert exit_code(monkeypatch, *arguments) == 2
    assert found.format(home=tmp_path / "me") in capsys.readouterr().err


def test_what_the_project_logs_as_a_warning_reaches_the_terminal_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        exit_code(monkeypatch, "--version")
    logging.getLogger("capsfusion_tasks.shards.retries").warning("busy\x1b[2J: trying again in %d s", 3)
    assert capsys.readouterr().err == "busy\\x1b[2J: trying again in 3 s\n"


def test_rows_that_are_wider_than_the_terminal_are_shown_as_records(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(pa.table({"n": [1, 2], "caption": ["short", None]}), "table")
    narrow = capsys.readouterr().out
    assert "│ 1 │ short" in narrow
    assert narrow.endswith("\n2 rows\n")
    print_rows(pa.table({"n": [7], "caption": ["word " * 30]}), "table")
    wide = capsys.readouterr().out.splitlines()
    assert wide[0] == "-- row 1 --"
    assert [line.split()[:2] for line in wide[1:3]] == [["n", "7"], ["caption", "word"]]
    assert wide[-1] == "1 row"
    assert sum(line.count("word") for line in wide) == 30


def test_settings_are_printed_with_their_values_and_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", "postgresql://me:secret@host/db")
    monkeypatch.setenv("CAPSFUSION_LAION2B_INCLUDE", "a*.parquet,b*.parquet")
    assert exit_code(monkeypatch, "settings") == 0
    lines = capsys.readouterr().out.splitlines()
    assert {f"CAPSFUSION_HOME={tmp_path}/.capsfusion", "CAPSFUSION_RULES__MIN_WORDS=3"} <= {*lines}
    assert "CAPSFUSION_LAION2B_INCLUDE=a*.parquet,b*.parquet" in lines
    assert not [line for line in lines if "secret" in line]


def test_the_page_of_settings_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run make docs"
