"""Common mistakes of new users. Each command must end with one line that says what to do, never with a traceback."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app, main
from capsfusion_tasks.demo.airflow_server import HOST, _free_ports, _ui_port
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.errors import InputError, NotReadyError

PAIRS = Path(__file__).parents[2] / "examples" / "pairs.jsonl"
FILES = {
    "columns.csv": b"url,alt,blip\nu,a,b\n",
    "semicolons.csv": b"laion_2b;laion_coco\na;b\n",
    "latin.csv": "laion_2b,laion_coco\ncaf\xe9,a cup\n".encode("latin-1"),
    "empty.csv": b"",
    "cut.jsonl": PAIRS.read_bytes()[:700],
    "numbers.jsonl": b'{"laion_2b": 5, "laion_coco": "a cup"}\n',
    "object.json": b'{"rows": []}',
    "fused.jsonl": b'{"laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}\n',
    "pairs.txt": b"a\tb\n",
    "a.parquet": b"not Parquet",
    "there.jsonl": b"precious",
    "lines.csv": b'{"laion_2b":"a","laion_coco":"b"}\n',
    "list.tsv": b'\xef\xbb\xbf[\n  {"laion_2b": "a"}]',
    "braces.csv": b"{a},laion_2b,laion_coco\nx,a,b\n",
    "headless.csv": b"Red bike 2018,a red bike\n",
    "spaces.csv": b"laion_2b, laion_coco\na,b\n",
    "holes.jsonl": b'{"laion_2b": "a", "laion_coco": "b"}\n{"laion_2b": "c"}\n',
    "pointer.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
}
SOURCES = "--laion-2b sample/laion-2b --laion-coco sample/laion-coco"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A user's working folder with its own home. At the end, restores what ``main`` changes in this process."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("CAPSFUSION_") and name != "CAPSFUSION_DEVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copy(PAIRS, "pairs.jsonl")
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    logger = logging.getLogger("capsfusion_tasks")
    before = (logger.handlers, logger.propagate, signal.getsignal(signal.SIGTERM))
    yield tmp_path
    logger.handlers, logger.propagate = before[:2]
    signal.signal(signal.SIGTERM, before[2])


def said(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command. Returns its exit code, and its standard error as one line."""
    monkeypatch.setattr(sys, "argv", ["capsfusion", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0), " ".join(capsys.readouterr().err.replace("│", " ").split())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("fuse pairs.jsonl", "pairs.jsonl is the only argument: give IN and OUT, as in capsfusion fuse pairs.jsonl"),
        ("fuse pair.jsonl out.jsonl", "no file pair.jsonl"),
        ("fuse shard/ fused/", "no file shard"),
        ("fuse 'shard*.csv' fused/", "no file matches 'shard*.csv'"),
        ("fuse pairs.txt out.jsonl", "cannot read pairs.txt: its name must end in .json, .jsonl"),
        ("fuse pairs.jsonl out.txt", "cannot write out.txt: its name must end in .json, .jsonl"),
        ("fuse pairs.jsonl out", "cannot write out: its name must end in .json, .jsonl"),
        ("fuse pairs.jsonl there.jsonl", "there.jsonl exists already: choose another name, or add --overwrite"),
        ("fuse pairs.jsonl pairs.jsonl", "pairs.jsonl is the input: choose another name"),
        ("fuse columns.csv out.csv", "it has url, alt, blip: name the captions' columns with --raw-column"),
        ("fuse columns.csv out.csv --raw-column altt --synthetic-column blip", "columns.csv has no altt; it has url"),
        ("fuse semicolons.csv out.csv", "separates its columns with ';', but the ending of its name requires ','"),
        ("fuse latin.csv out.csv", "is not UTF-8: invalid continuation byte; save the file as UTF-8"),
        ("fuse empty.csv out.csv", "empty.csv is empty; its first line must be a header"),
        ("fuse cut.jsonl out.jsonl", "cut.jsonl, row 5 (line 5) is not valid JSON"),
        ("fuse numbers.jsonl out.jsonl", "row 1: laion_2b must be text, but is 5"),
        ("fuse object.json out.json", "contains one object; expected a list of objects"),
        ("fuse a.parquet out.parquet", "a.parquet cannot be read as Parquet"),
        ("fuse lines.csv out.csv", "lines.csv contains JSON, but the ending of its name requires columns with ','"),
        ("fuse list.tsv out.csv", "list.tsv contains JSON, but the ending of its name requires columns with '\\t'"),
        ("fuse braces.csv out.csv --id-column b", "the header of braces.csv has no b; it has {a}, laion_2b"),
        ("fuse headless.csv out.csv", "the header of headless.csv has no laion_2b and no laion_coco; it has Red"),
        ("fuse spaces.csv out.csv", "has no laion_coco; it has laion_2b, ' laion_coco': name"),
        ("fuse holes.jsonl out.jsonl", "holes.jsonl, row 2 has no laion_coco; it has laion_2b: write null where a"),
        ("fuse pointer.parquet out.parquet", "it is a Git LFS pointer, not the file itself; run git lfs pull"),
        ("fuse fused.jsonl out.jsonl", "already has a column capsfusion; rename or drop it"),
        ("fuse pairs.jsonl out.jsonl --num-beam 3", "No such option: --num-beam (Possible options:"),
        ("fuse pairs.jsonl out.jsonl --num-beams 0", "greater than or equal to 1"),
        ("fuse pairs.jsonl out.jsonl --dtype fp16", "is not one of 'auto', 'float32', 'bfloat16', 'float8'"),
        ("fuse pairs.jsonl out.jsonl --nproc-per-node all", "nproc_per_node is 'all': expected 'auto' or a valid int"),
        ("fuse pairs.jsonl out.jsonl --model ./nowhere", "no model at ./nowhere: give a folder with config.json"),
        ("fuse pairs.jsonl out.jsonl --model CapsFus-LLaMA", "or a hub id such as BAAI/CapsFus-LLaMA"),
        ("fuze pairs.jsonl out.jsonl", "No such command 'fuze'. Did you mean 'fuse'?"),
        ("validate pairs.jsonl", "has no capsfusion; it has id, laion_2b, laion_coco: name the columns with"),
        ("validate columns.csv --column blip", "it has url, alt, blip: name the columns with --raw-column"),
        ("validate fused.jsonl --report page", "its name must end in .html"),
        ("validate fused.jsonl --try min_word=3", "expected name=value, where name is one of"),
        ("status", "there is no warehouse in"),
        ("replay --reason truncated", "there is no warehouse in"),
        (f"adopt {'a' * 12}", "there is no warehouse in"),
        ("run", "Missing option '--start'"),
        ("run --start 10.11.2026 --end 2026-11-13", "'10.11.2026' is not a date: write it as 2026-11-10"),
        ("run --start 2026-11-31 --end 2026-12-01", "'2026-11-31' is not a date (day is out of range for month)"),
        # A number is no time in seconds since 1970.
        (f"run --start 20261113 --end 20261110 {SOURCES}", "it starts 2026-11-13 00:00:00+00:00 and ends 2026-11-10"),
        ("export captions --start 2026", "Invalid value for '--start': '2026' is not a date"),
        ("sample-data sample --first-day 2026", "Invalid value for '--first-day': '2026' is not a date"),
        ("check --end 1794268800", "Invalid value for '--end': '1794268800' is not a date"),
        (f"run --start 2026-11-13 --end 2026-11-10 {SOURCES}", "the interval is empty"),
        (f"run --start 2026-11-10 --end 2026-11-13 --max-cost 5 {SOURCES}", "set CAPSFUSION_GPU_HOUR_PRICE"),
        ("replay --reason truncate", "unknown reason truncate: give one of"),
        ("sample-data there.jsonl", "there.jsonl"),
        ("up --port 70000", "Invalid value for '--port'"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, answer: str
) -> None:
    before = contents(folder)
    code, line = said(command, monkeypatch, capsys)
    assert code == 2, line
    assert answer in line.replace("/private", "").replace(f"{folder}/nowhere", "./nowhere")
    assert contents(folder) == before, "nothing is written"


DAY = ("--start", "2026-11-10", "--end", "2026-11-11")


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["fuse", "{}", "out.jsonl"], "IN"),
        (["fuse", "pairs.jsonl", "{}"], "OUT"),
        (["fuse", "pairs.jsonl", "out.jsonl", "--stats", "{}"], "--stats"),
        (["fuse", "pairs.jsonl", "out.jsonl", "--model", "{}"], "--model"),
        (["fuse", "pairs.jsonl", "out.jsonl", "--prompt", "{}"], "--prompt"),
        (["validate", "{}"], "IN"),
        (["validate", "fused.jsonl", "--out", "{}"], "--out"),
        (["validate", "fused.jsonl", "--report", "{}"], "--report"),
        (["run", *DAY, "--laion-2b", "{}"], "--laion-2b"),
        (["run", *DAY, "--laion-coco", "{}"], "--laion-coco"),
        (["replay", "--fusion", "{}"], "--fusion"),
        (["adopt", "{}"], "ID"),
        (["export", "{}"], "DIR"),
        (["export", "captions", "--fusion", "{}"], "--fusion"),
        (["sample-data", "{}"], "DIR"),
        (["demo", "--airflow", "{}"], "--airflow"),
    ],
)
def test_an_empty_path_address_or_name_is_no_folder_and_the_argument_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    named: str,
    empty: str,
) -> None:
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["capsfusion", *(argument.format(empty) for argument in command)])
    with pytest.raises(SystemExit) as caught:
        main()
    line = " ".join(capsys.readouterr().err.replace("│", " ").split())
    told = "the value is empty: give a value. If you gave a shell variable, the variable is not set"
    assert (caught.value.code, f"Invalid value for '{named}': {told}" in line) == (2, True), line
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("variable", "value", "answer"),
    [
        ("CAPSFUSION_NUM_BEAM", "3", "CAPSFUSION_NUM_BEAM is not a setting: did you mean CAPSFUSION_NUM_BEAMS?"),
        ("CAPSFUSION_NUM_BEAMS", "many", "CAPSFUSION_NUM_BEAMS is 'many': expected a valid integer"),
        ("CAPSFUSION_LAION2B", "s3:bucket", "there is no // after s3:; write s3://bucket"),
    ],
)
def test_a_wrong_variable_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    answer: str,
) -> None:
    monkeypatch.setenv(variable, value)
    for command in ("run --start 2026-11-10 --end 2026-11-11", "fuse pairs.jsonl out.jsonl"):
        code, line = said(command, monkeypatch, capsys)
        assert code == 2, line
        assert answer in line


def test_a_hub_that_does_not_answer_is_no_wrong_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    code, line = said("fuse pairs.jsonl out.jsonl --model BAAI/CapsFus-LLaMA", monkeypatch, capsys)
    assert code == os.EX_TEMPFAIL
    assert "the model BAAI/CapsFus-LLaMA is not on this machine, and the hub does not answer" in line


def test_an_empty_file_is_fused_without_a_torchrun(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("capsfusion_tasks.fusion.files.Torchrun", None)
    Path("nothing.jsonl").touch()
    done = CliRunner().invoke(app, ["fuse", "nothing.jsonl", "out.json"])
    assert done.exit_code == 0, done.output
    assert "the input has no rows: nothing is fused" in done.stderr
    assert Path("out.json").read_text() == "[\n]\n"


def test_validate_takes_the_columns_that_fuse_takes(folder: Path) -> None:
    Path("mine.csv").write_text("alt,blip,made\nRex the dog,A dog on grass.,Rex the dog is on green grass.\n")
    names = ["--raw-column", "alt", "--synthetic-column", "blip", "--column", "made"]
    done = CliRunner().invoke(app, ["validate", "mine.csv", *names])
    assert "1 of 1 accepted" in done.output


@pytest.mark.slow
def test_sources_without_a_shard_of_these_dates_say_what_they_have(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], warehouse_url: str
) -> None:
    write_sample_data(Path("sample"), rows_per_day=10, days=1)
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    code, line = said(f"run --start 2025-11-10 --end 2025-11-11 {SOURCES}", monkeypatch, capsys)
    assert code == 0
    assert "discover: laion_2b has 2 shards, but none in the interval: they arrived from 2026-11-10" in line
    Path("nothing").mkdir()
    alone = "--laion-2b sample/laion-2b --laion-coco nothing"
    code, line = said(f"run --start 2026-11-10 --end 2026-11-11 {alone}", monkeypatch, capsys)
    assert code == 0
    assert "no pair was found: no URL with the same raw caption is in both sources yet" in line
    monkeypatch.setenv("CAPSFUSION_HOME", "swapped")
    swapped = "--laion-2b sample/laion-coco --laion-coco sample/laion-2b"
    code, line = said(f"run --start 2026-11-10 --end 2026-11-11 {swapped}", monkeypatch, capsys)
    assert code == 2
    assert "lacks a column for synthetic (named top_caption); it has URL, TEXT" in line


@pytest.mark.parametrize(
    ("statement", "answer"),
    [
        ("select * from fused_caption", "the tables are captions, fused_captions, fusions"),
        ('select * from captions where capsfusion = "red"', "write text in single quotes: 'red'"),
        ("select caption from fused_captions", "to see the columns of a table, run: select * from TABLE limit 1"),
        ("select 1; select 2", "give one statement at a time"),
        ("delete from fused_captions", "read-only transaction"),
        (
            "copy fused_captions to '/tmp/copied-by-a-query'",
            "only queries are run, in a read-only transaction: start with select",
        ),
        ("begin", "only queries are run"),
        ("selct 1", 'syntax error at or near "selct" (line 1, column 1)'),
    ],
)
def test_a_query_that_fails_says_what_there_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse_url: str, statement: str, answer: str
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    done = CliRunner().invoke(app, ["sql", statement])
    assert isinstance(done.exception, InputError)
    assert answer in str(done.exception)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--where", 'capsfusion = "red"'], "write text in single quotes: 'red'"),
        (["--where", " "], "--where is empty: give a condition, or leave this option out"),
    ],
)
def test_a_wrong_condition_of_an_export_is_explained(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse_url: str, options: list[str], answer: str
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    done = CliRunner().invoke(app, ["export", "captions", *options])
    assert isinstance(done.exception, InputError)
    assert answer in str(done.exception)
    assert not list(Path("captions").glob("*"))


def test_an_export_from_the_future_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse_url: str
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    done = CliRunner().invoke(app, ["export", "captions", "--start", "2099-01-01"])
    assert isinstance(done.exception, NotReadyError)
    assert "2099-01-01 00:00:00 UTC is in the future: no caption has been loaded after this time" in str(done.exception)
    assert not list(Path("captions").glob("*"))


def test_a_finished_export_says_that_it_has_no_newer_captions(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse_url: str
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    first, again = (CliRunner().invoke(app, ["export", "captions"]) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (0, 0)
    said = "so nothing is written: for captions that were loaded later, give another folder"
    assert (said in " ".join(first.stderr.split()), said in " ".join(again.stderr.split())) == (False, True)


@pytest.mark.parametrize("output_format", ["json", "parquet"])
def test_a_query_with_two_columns_of_a_name_loses_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, warehouse_url: str, output_format: str
) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    done = CliRunner().invoke(app, ["sql", "select 1 as n, 2 as n", "--format", output_format])
    assert isinstance(done.exception, InputError)
    assert "several columns of the name n" in str(done.exception)
    assert done.stdout == ""
    shown = CliRunner().invoke(app, ["sql", "select 1 as n, 2 as n", "--format", "csv"])
    assert shown.stdout.split() == ['"n","n"', "1,2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("fuse pairs.jsonl locked/out.jsonl", "cannot write locked/out.jsonl: Permission denied"),
        (
            "run --start 2026-11-10 --end 2026-11-11",
            "cannot use {folder}/locked/home for the embedded database",
        ),
        ("sample-data locked/sample", "Permission denied: {folder}/locked/sample"),
    ],
)
def test_a_missing_right_is_one_line(folder: Path, command: str, answer: str) -> None:
    Path("locked").mkdir(mode=0o555)
    rights = "-dac_override,-dac_read_search"
    as_others = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_others, sys.executable, "-m", "capsfusion_tasks.cli", *command.split()],
        env={**os.environ, "CAPSFUSION_HOME": "locked/home", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert answer.format(folder=folder) in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_libraries_are_imported_is_quiet() -> None:
    root = Path(__file__).parents[2]
    [start] = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"].values()
    module, _, function = start.partition(":")
    program = f"""
import os, signal, sys

class AtTheImport:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, AtTheImport())
signal.signal(signal.SIGINT, signal.default_int_handler)
from {module} import {function}
{function}()
"""
    done = subprocess.run([sys.executable, "-c", program, "--version"], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_a_port_in_use_is_told_and_another_one_is_taken() -> None:
    lines: list[str] = []
    with socket.socket() as used:
        used.bind((HOST, 0))
        used.listen()
        [free] = _free_ports(1)
        assert _ui_port(used.getsockname()[1], free, lines.append) == free
        assert lines == [f"port {used.getsockname()[1]} is in use, so the UI is on port {free} instead"]
        assert _ui_port(free, 1, lines.append) == free
