"""Tests `capsfusion fuse` with folders, patterns and several files, and its messages about an earlier try."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.decoding import KNOBS
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion import begun, files
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.settings import load_settings
from tests.fusion.conftest import PAIRS

pytestmark = pytest.mark.usefixtures("one_process")

Fuse = Callable[..., Result]


@pytest.fixture
def fuse(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """A function that runs `fuse`. The folder ``shards`` has three shards in different formats, and other files."""
    monkeypatch.chdir(tmp_path)
    for folder in ("shards/late", "shards/_temporary"):
        Path(folder).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(PAIRS[:4]), "shards/0.parquet")
    Path("shards/1.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS[4:7]))
    Path("shards/late/2.json").write_text(json.dumps([*PAIRS[7:9], {"laion_2b": "", "laion_coco": "x", "key": "k"}]))
    for other in ("README.md", ".hidden.json", "_temporary/3.json"):
        Path("shards", other).write_text("[]")

    def run(*arguments: str) -> Result:
        options = ("--model", str(tiny_model), "--max-new-tokens", "6")
        return CliRunner().invoke(app, ["fuse", *arguments, *options], env={"CAPSFUSION_CHUNK_ROWS": "4"})

    return run


def rows(file: str | Path) -> list[dict[str, Any]]:
    if str(file).endswith(".parquet"):
        return list(pq.read_table(file).to_pylist())
    text = Path(file).read_text()
    return list(json.loads(text)) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def outputs(folder: str = "fused") -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def fail(result: Result) -> str:
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_a_folder_becomes_a_folder_with_one_start_of_torchrun(fuse: Fuse, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    torchrun = files.Torchrun
    monkeypatch.setattr(files, "Torchrun", lambda *args, **more: started.append(args) or torchrun(*args, **more))
    done = fuse("shards", "fused")
    assert done.exit_code == 0, done.output
    assert len(started) == 1
    assert outputs() == ["0.parquet", "1.jsonl", "late/2.json"]
    assert not Path("fused.parts").exists()
    fused = [row for name in outputs() for row in rows(f"fused/{name}")]
    assert [row["laion_2b"] for row in fused] == [pair["laion_2b"] for pair in PAIRS[:9]] + [""]
    assert "fused: 10 rows in 3 files" in done.stderr
    assert "shards/late/2.json, row 3 has no fused caption: laion_2b is empty" in done.stderr
    assert fuse("shards/1.jsonl", "alone.jsonl").exit_code == 0
    assert rows("alone.jsonl") == rows("fused/1.jsonl"), "the files beside it change no caption"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["shards/*.*[lt]", "fused"], ["0.parquet", "1.jsonl"]),
        (["shards/**/*.json", "fused"], ["late/2.json"]),
        (["shards/_*/*.json", "fused"], ["_temporary/3.json"]),
        (["shards/0.parquet", "shards/late", "fused"], ["0.parquet", "2.json"]),
        (["shards/0.parquet", "there"], ["0.parquet"]),
    ],
)
def test_patterns_and_several_files_go_into_a_folder(fuse: Fuse, arguments: list[str], expected: list[str]) -> None:
    Path("there").mkdir()
    done = fuse(*arguments)
    assert done.exit_code == 0, done.output
    assert outputs(arguments[-1]) == expected


@pytest.mark.parametrize("source", ["shards", "shards/**/*.[jp]*", "shards/late/../**/*.[jp]*", "link/**/*.[jp]*"])
def test_outputs_and_finished_rows_inside_the_input_are_no_inputs(fuse: Fuse, source: str) -> None:
    Path("link").symlink_to("shards")
    for ours in ("shards/fused/0.parquet", "shards/fused/late/2.json", "shards/fused.parts/chunks/00000-e7.parquet"):
        Path(ours).parent.mkdir(parents=True, exist_ok=True)
        Path(ours).touch()
    done = fuse(source, "shards/fused", "--skip-existing")
    assert done.exit_code == 0, done.output
    assert "2 of 3 outputs exist already" in done.stderr
    assert outputs("shards/fused") == ["0.parquet", "1.jsonl", "late/2.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["shards", "out.jsonl"],
            "out.jsonl has the name of a file: name a folder for OUT, because IN is more than one file",
        ),
        (["shards", "shards/README.md"], "shards/README.md is a file: name a folder for OUT"),
        (["shards", "shards"], "shards is the folder of the input"),
        (["shards/_temporary", "shards/late", "shards"], "shards has 2.json already"),
        (["shards/late/2.json", "shards/late"], "is the input: choose another name"),
        (["shards/*.csv", "fused"], "no file matches shards/*.csv"),
        (["empty", "fused"], "empty has no caption files: their names must end in .json, .jsonl"),
        (["shards/late", "shards/late/*", "twins"], "twins has 2.json already"),
        (["kept/*", "kept"], "kept is the folder of the input"),
        (["shards/*/2.json", "shards/late"], "has only files that are left out, such as shards/late/2.json"),
        (["twins/a", "twins/b", "fused"], "twins/a/x.json and twins/b/x.json would both be written to fused/x.json"),
        (["shards/*", "fused"], "cannot read shards/README.md: its name must end in"),
        (["shards", "no/fused"], "there is no folder"),
        (["shards", "kept"], "kept has 0.parquet and 1 more outputs already"),
        (["shards", "kept", "--overwrite", "--skip-existing"], "cannot be combined"),
    ],
)
def test_what_cannot_be_fused_is_refused_in_one_line_and_nothing_is_written(
    fuse: Fuse, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "Torchrun", None)
    for file in ("twins/a/x.json", "twins/b/x.json", "kept/0.parquet", "kept/1.jsonl", "shards/2.json", "empty/x.txt"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("[]")
    if arguments[-1] == "twins":  # a file that is named twice is one input; its output exists already
        Path("twins/2.json").touch()
    before = sorted(tmp_path.rglob("*"))
    said = fail(fuse(*arguments))
    assert message in said
    assert len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_outputs_are_kept_or_replaced_as_asked(fuse: Fuse) -> None:
    Path("fused").mkdir()
    Path("fused/1.jsonl").write_text("precious\n")
    done = fuse("shards", "fused", "--skip-existing")
    assert "fused: 1 of 3 outputs exist already and are skipped" in done.stderr
    assert Path("fused/1.jsonl").read_text() == "precious\n"
    assert len(rows("fused/late/2.json")) == 3
    assert fuse("shards", "fused", "--overwrite").exit_code == 0
    assert len(rows("fused/1.jsonl")) == 3


def test_a_try_that_ended_while_it_wrote_goes_on_although_files_have_come(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_caption_file", _fails_at("1.jsonl"))
        assert isinstance(fuse("shards", "fused").exception, KeyboardInterrupt | SystemExit)
    assert outputs() == ["0.parquet"]
    Path("shards/00.jsonl").write_text(json.dumps(PAIRS[9]) + "\n")  # before all others
    done = fuse("shards", "fused")
    assert "11/11 rows (10 of an earlier try)" in done.stderr
    assert outputs() == ["0.parquet", "00.jsonl", "1.jsonl", "late/2.json"]
    assert not Path("fused.parts").exists()


def test_a_repeated_run_that_skips_files_replaces_its_statistics_only(fuse: Fuse) -> None:
    again = ["shards", "fused", "--skip-existing", "--stats", "s.json"]
    assert fuse(*again).exit_code == 0
    done = fuse(*again)
    assert done.exit_code == 0, done.exception
    assert json.loads(Path("s.json").read_text())["rows"] == 0
    Path("s.json").write_text('{"rows": "precious"}')
    said = fail(fuse(*again))
    assert "s.json exists already, but does not have the statistics" in said
    assert "--overwrite" not in said, "it cannot be combined with --skip-existing"
    assert "precious" in Path("s.json").read_text()


def test_linked_folders_are_fused_once_but_not_outputs_behind_links(fuse: Fuse, tmp_path: Path) -> None:
    for folder in ("elsewhere/more", "fused"):
        Path(folder).mkdir(parents=True)
        Path(folder, "4.jsonl").write_text(json.dumps(PAIRS[9]) + "\n")
    for link, folder in (("linked", "elsewhere"), ("loop", "shards"), ("latest", "shards/late"), ("out", "fused")):
        Path("shards", link).symlink_to(tmp_path / folder)
    done = fuse("shards", "fused", "--skip-existing")
    assert done.exit_code == 0, done.exception
    assert outputs() == ["0.parquet", "1.jsonl", "4.jsonl", "late/2.json", "linked/more/4.jsonl"]


@pytest.mark.parametrize(("folder", "out"), [("x", "."), ("x/below", "..")])
def test_finished_rows_of_an_output_without_a_name_are_kept_beside_it(
    fuse: Fuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, out: str
) -> None:
    Path("x/below").mkdir(parents=True)
    monkeypatch.chdir(folder)
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_caption_file", _fails_at("2.json"))
        stopped = fuse(str(tmp_path / "shards/late"), out)
    assert f"kept in {tmp_path}/x.parts. " in stopped.stderr
    assert (tmp_path / "x.parts/begun.json").exists()
    assert fuse(str(tmp_path / "shards/late"), out).exit_code == 0
    assert sorted(os.listdir(tmp_path)) == ["shards", "x"]


@pytest.mark.parametrize("knob", KNOBS)
def test_a_knob_that_differs_from_the_earlier_try_is_named(tiny_model: Path, knob: str) -> None:
    before = decide(load_settings(model=str(tiny_model)))
    now = before.model_copy(update={knob: "another", "fusion_id": "another"})
    with pytest.raises(InputError, match=rf"\({knob} {getattr(before, knob)}, now another\)"):
        begun.require_same_decoding(begun.Begun(decoding=before, files=()), now, Path("out.parts"))


@pytest.mark.parametrize("written", [False, True])
def test_a_single_file_goes_on_although_its_output_exists(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """The output is from before and may be replaced, or the earlier try ended just after it wrote the output."""
    arguments = ["shards/1.jsonl", "out.jsonl", *([] if written else ["--overwrite"])]
    if not written:
        Path("out.jsonl").write_text("old\n")
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_caption_file", _fails_at("out.jsonl", after=written))
        assert fuse(*arguments).exit_code == 130
    assert len(Path("out.jsonl").read_text().splitlines()) == (3 if written else 1)
    done = fuse(*arguments)
    assert done.exit_code == 0, done.exception
    assert "3/3 rows (3 of an earlier try)" in done.stderr
    assert len(rows("out.jsonl")) == 3
    assert not Path("out.jsonl.parts").exists()


@pytest.mark.parametrize("one", [True, False])
def test_a_file_that_came_after_the_earlier_try_is_not_replaced_unasked(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch, one: bool
) -> None:
    """The earlier try ended while it fused, so it wrote no output."""
    arguments, out = (["shards/1.jsonl", "out.jsonl"], "out.jsonl") if one else (["shards", "fused"], "fused/1.jsonl")
    fuse_while_reading = files._fuse_while_reading

    def killed(*job: Any) -> None:
        fuse_while_reading(*job)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(files, "_fuse_while_reading", killed)
        assert fuse(*arguments).exit_code == 130
    Path(out).parent.mkdir(exist_ok=True)
    Path(out).write_text("precious\n")
    assert "--overwrite" in fail(fuse(*arguments))
    assert Path(out).read_text() == "precious\n"
    Path(out).rename("elsewhere")

    def come(*job: Any) -> None:
        fuse_while_reading(*job)
        Path("elsewhere").rename(out)

    with monkeypatch.context() as late:
        late.setattr(files, "_fuse_while_reading", come)
        assert "--overwrite" in fail(fuse(*arguments))
    assert Path(out).read_text() == "precious\n"
    done = fuse(*arguments, "--overwrite")
    assert re.search(r"(\d+)/\1 rows \(\1 of an earlier try\)", done.stderr)
    assert len(rows(out)) == 3


def test_an_earlier_try_is_not_continued_into_what_cannot_be_written(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_caption_file", _fails_at("1.jsonl"))
        assert fuse("shards", "fused").exit_code == 130
    Path("fused/1.jsonl").mkdir()
    monkeypatch.setattr(files, "Torchrun", None)
    assert "cannot write fused/1.jsonl: it is a folder" in fail(fuse("shards", "fused"))


def test_finished_rows_of_other_settings_or_files_are_not_discarded_unasked(
    fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(files, "write_caption_file", _fails_at("0.parquet"))
        fuse("shards", "fused")
    kept = sorted(os.listdir("fused.parts/chunks"))
    said = fail(fuse("shards", "fused", "--num-beams", "1"))
    assert "fused.parts has rows of an earlier try with other settings (num_beams 3, now 1): use the earlier" in said
    Path("shards/1.jsonl").rename("gone.jsonl")
    assert "the earlier try fused 1.jsonl, which IN does not include now: give" in fail(fuse("shards", "fused"))
    assert sorted(os.listdir("fused.parts/chunks")) == kept
    done = fuse("shards", "fused", "--num-beams", "1", "--no-resume")
    assert "7/7 rows" in done.stderr
    assert "earlier try" not in done.stderr


def _fails_at(name: str, *, after: bool = False) -> Callable[..., None]:
    """A ``write_caption_file`` that raises KeyboardInterrupt as if the user pressed Ctrl-C when it writes ``name``.

    ``after``: only after it has written the file.
    """
    write = files.write_caption_file

    def writing(target: Path, *more: Any) -> None:
        if target.name == name and not after:
            raise KeyboardInterrupt
        write(target, *more)
        if target.name == name:
            raise KeyboardInterrupt

    return writing
