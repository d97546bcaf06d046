"""Tests what a user sees of the command line: exit codes, standard output and standard error."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from tests.command import capsfusion, capsfusion_process

COMMANDS = [
    *("fuse", "validate", "run", "replay", "plan", "status", "check", "gc", "adopt", "sql", "export", "sample-data"),
    *("settings", "db", "demo", "up"),
]


def test_help_names_every_command() -> None:
    done = capsfusion_process("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f" {command} " in done.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str) -> None:
    done = capsfusion(command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout.decode()


def test_help_wraps_at_the_width_of_the_terminal_and_not_where_the_docstring_does() -> None:
    assert b"the pairs that are in no unit yet. Pairs of shards" in capsfusion("plan", "--help").stdout


def test_help_tells_the_defaults_and_the_variables_that_change_them() -> None:
    text = " ".join(capsfusion("fuse", "--help").stdout.decode().replace("│", " ").split())
    for variable, default in (("NUM_BEAMS", "3"), ("MAX_NEW_TOKENS", "80"), ("KEEP_BEAMS", "no"), ("ENGINE", "native")):
        assert f"Default: CAPSFUSION_{variable}, or {default}." in text


def test_an_unknown_option_is_exit_code_2() -> None:
    assert capsfusion("fuse", "a.json", "b.json", "--no-such-option").returncode == 2


@pytest.mark.parametrize(
    ("options", "variable", "line"),
    [
        ([], "", "model: the bundled demo model, a toy. For real captions: --model BAAI/CapsFus-LLaMA"),
        ([], "/models/mine", "model: /models/mine (CAPSFUSION_MODEL)"),
        (["--model", "/models/mine"], "", None),
    ],
)
@pytest.mark.parametrize("command", ["fuse no.json out.json", "run --start=2026-11-10 --end=2026-11-09"])
def test_without_model_it_says_which_one_fuses(
    command: str, options: list[str], variable: str, line: str | None
) -> None:
    done = CliRunner().invoke(app, [*command.split(), *options], env={"CAPSFUSION_MODEL": variable})
    shown = [each for each in done.stderr.splitlines() if each.startswith("model: ")]
    assert shown == ([line] if line else [])


@pytest.mark.usefixtures("one_process")
def test_fuse_tells_what_it_took(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"laion_2b": f"Vlylun {n}", "laion_coco": "A street."} for n in range(5)] + [
        {"laion_2b": "", "laion_coco": ""}
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    done = capsfusion(
        *("fuse", tmp_path / "in.json", tmp_path / "out.parquet", "--model", str(tiny_model)),
        *("--max-new-tokens", "4", "--stats", tmp_path / "stats.json"),
    )
    assert done.returncode == 0, done.stderr
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert (stats["rows"], stats["failed"]) == (6, 1)
    assert 5 <= stats["caption_tokens"] <= 20
    assert stats["rows_per_second"] == pytest.approx(6 / stats["gpu_seconds"], rel=0.2)  # both are rounded
    assert 0 < stats["occupancy"] <= 1
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 6


def test_sql_prints_what_each_format_promises(warehouse_url: str) -> None:
    sql = "select * from (values (1, 'a, b'), (2, null)) as t(n, s)"

    def output(name: str) -> bytes:
        command = capsfusion_process if name == "parquet" else capsfusion
        done = command("sql", sql, "--format", name, CAPSFUSION_WAREHOUSE_URL=warehouse_url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert b"a, b" in output("table")
    assert output("csv") == b'"n","s"\n1,"a, b"\n2,\n'
    assert [json.loads(line) for line in output("json").splitlines()] == [{"n": 1, "s": "a, b"}, {"n": 2, "s": None}]
    assert pq.read_table(io.BytesIO(output("parquet"))).to_pylist() == [{"n": 1, "s": "a, b"}, {"n": 2, "s": None}]


def test_lists_decimals_and_repeated_names_can_be_printed(warehouse_url: str) -> None:
    sql = "select array['a', 'b'] as x, 1.5::numeric as n, 2 as n"
    csv = capsfusion("sql", sql, "--format", "csv", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert csv.stdout == b'"x","n","n"\n"[""a"", ""b""]",1.5,2\n', csv.stderr
    table = capsfusion("sql", sql, CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert b"1.5" in table.stdout
    assert b"2" in table.stdout


def test_sql_can_change_nothing_and_says_what_postgresql_says(warehouse_url: str) -> None:
    done = capsfusion("sql", "delete from shards", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert done.returncode == 2
    assert b"read-only transaction" in done.stderr
    done = capsfusion("sql", "select nothing from nowhere", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert done.returncode == 2
    assert b'relation "nowhere" does not exist' in done.stderr


def test_export_writes_files_and_a_manifest_and_says_so(warehouse_url: str, tmp_path: Path) -> None:
    arguments = ("export", tmp_path / "captions", "--columns", "fusion_id", "--where", "raw_recall > 0.8")
    done = capsfusion(*arguments, CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert done.returncode == 0, done.stderr
    assert b"captions: 0 captions in 0 files, as of 20" in done.stderr
    manifest = json.loads((tmp_path / "captions" / "_manifest.json").read_text())
    names = [name for name, _ in manifest["columns"]]
    assert names == ["image_url", "laion_2b", "laion_coco", "capsfusion", "fusion_id"]
    assert manifest["rows_per_file"] == 1_000_000
    other = capsfusion("export", tmp_path / "captions", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert other.returncode == 2
    assert b"replace that export with --overwrite" in other.stderr


def test_a_caption_cannot_steer_the_terminal(warehouse_url: str) -> None:
    done = capsfusion("sql", r"select E'\x1b[31mred [bold]x[/bold]' as s", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert b"\x1b" not in done.stdout
    assert b"[bold]x[/bold]" in done.stdout


def test_status_of_an_empty_warehouse(warehouse_url: str) -> None:
    done = capsfusion("status", CAPSFUSION_WAREHOUSE_URL=warehouse_url)
    assert done.returncode == 0
    assert b"no shards" in done.stdout


def test_validate_prints_reasons_and_writes_verdicts(tmp_path: Path) -> None:
    rows = [
        {"laion_2b": "Rex the dog", "laion_coco": "A dog on grass.", "capsfusion": "Rex the dog is on green grass."},
        {"laion_2b": "Rex the dog", "laion_coco": "A dog on grass.", "capsfusion": "Rex the dog is on"},
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    done = capsfusion(
        *("validate", tmp_path / "in.json", "--out", tmp_path / "verdicts.parquet"),
        *("--report", tmp_path / "report.html"),
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 2 captions accepted" in (tmp_path / "report.html").read_text()
    assert b"1 of 2 accepted" in done.stdout
    assert b"truncated" in done.stdout
    assert pq.read_table(tmp_path / "verdicts.parquet")["reasons"].to_pylist() == [[], ["truncated"]]


def test_thresholds_of_rules_are_variables(tmp_path: Path) -> None:
    row = {"laion_2b": "Rex the dog", "laion_coco": "A dog on grass.", "capsfusion": "Rex the dog is on green grass."}
    (tmp_path / "in.json").write_text(json.dumps([row]))
    strict = capsfusion("validate", tmp_path / "in.json", CAPSFUSION_RULES__MIN_WORDS="10")
    assert b"too_short" in strict.stdout
    wrong = capsfusion("validate", tmp_path / "in.json", CAPSFUSION_RULES__MIN_WORDS="few")
    assert wrong.returncode == 2
    assert b"CAPSFUSION_RULES__MIN_WORDS is " in wrong.stderr


def test_sample_data_says_what_a_run_must_find_and_keeps_a_sample_that_is_there(tmp_path: Path) -> None:
    first = capsfusion("sample-data", tmp_path / "s", "--rows-per-day", "40")
    assert first.returncode == 0, first.stderr
    assert b"120 pairs" in first.stdout
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "s").rglob("*.parquet")}
    again = capsfusion("sample-data", tmp_path / "s", "--rows-per-day", "40")
    assert again.returncode == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "s").rglob("*.parquet")} == files
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    assert capsfusion("sample-data", tmp_path / "other").returncode == 2
