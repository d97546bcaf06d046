"""Tests `capsfusion fuse`, as a command with a real torchrun, and as a function with ranks in this process."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.cli import app
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.files import fuse_file
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.pairs_input import PairColumns
from capsfusion_tasks.fusion.parts_folder import parts_folder
from capsfusion_tasks.schemas import FUSED
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging.storage import Storage
from tests.command import capsfusion
from tests.fusion.conftest import PAIRS

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture
def settings(tiny_model: Path) -> Settings:
    return load_settings(model=str(tiny_model), max_new_tokens=6, chunk_rows=4, batch_size=2)


def fuse(source: Path, target: Path, settings: Settings) -> list[str]:
    lines: list[str] = []
    fuse_file(source, target, settings, on_line=lines.append)
    return lines


def command(source: Path, target: Path, settings: Settings, **environment: str) -> subprocess.Popen[bytes]:
    """`capsfusion fuse` in a new process, with the same settings and a real torchrun."""
    options = {"MODEL": settings.model, "MAX_NEW_TOKENS": "6", "CHUNK_ROWS": "4", "BATCH_SIZE": "2"}
    options |= {"NPROC_PER_NODE": str(settings.nproc_per_node)}
    return subprocess.Popen(
        [sys.executable, "-m", "capsfusion_tasks.cli", "fuse", source, target],
        env={**os.environ, **{f"CAPSFUSION_{name}": value for name, value in options.items()}, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_rows_keep_their_order_and_their_columns_and_nothing_else_is_left(
    pairs_file: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "temporary").mkdir()
    fusing = command(pairs_file, tmp_path / "out.jsonl", settings, TMPDIR=str(tmp_path / "temporary"))
    assert fusing.wait(timeout=200) == 0
    before = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    after = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "capsfusion"} for row in after] == before
    assert all(isinstance(row["capsfusion"], str) for row in after)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "pairs.jsonl", "temporary"]
    assert os.listdir(tmp_path / "temporary") == []


def test_two_ranks_share_the_rows_and_give_the_same_bytes(pairs_file: Path, tmp_path: Path, settings: Settings) -> None:
    fuse(pairs_file, tmp_path / "one.jsonl", settings)
    fuse(pairs_file, tmp_path / "two.jsonl", settings.model_copy(update={"nproc_per_node": 2}))
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.mark.slow
def test_after_a_kill_it_goes_on_and_gives_the_same_bytes(pairs_file: Path, tmp_path: Path, settings: Settings) -> None:
    fuse(pairs_file, tmp_path / "whole.jsonl", settings)
    target = tmp_path / "broken.jsonl"
    parts = tmp_path / "broken.jsonl.parts" / "chunks"
    process = command(pairs_file, target, settings.model_copy(update={"nproc_per_node": 2}))
    while len(list(parts.glob("*.parquet"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert len(family) >= 3
    assert not alive, "ranks outlived the command that was killed"
    done = sum(pq.read_table(file).num_rows for file in parts.glob("[0-9]*.parquet"))
    assert not target.exists()

    lines = fuse(pairs_file, target, settings)
    assert f"50/50 rows ({done} of an earlier try)" in lines[-1]
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_finished_rows_are_taken_over_where_they_are_of_this_fusion_and_did_not_change(
    tmp_path: Path, settings: Settings
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    parts = Storage(f"{target}.parts")
    fusion_id = decide(settings).fusion_id
    rows = [
        {"row": row, "input": chunks.input_digest(pair["laion_2b"], pair["laion_coco"]), "finish_reason": "stop"}
        | {"capsfusion": f"finished {row}", "prompt_tokens": 9, "caption_tokens": 2}
        for row, pair in enumerate(PAIRS[:20])
    ]
    fused = pa.Table.from_pylist(rows, FUSED)
    chunks.publish(parts, "chunks/00000-a.parquet", fused.slice(0, 6), "another", Figures())
    chunks.publish(parts, "chunks/00001-a.parquet", fused.slice(10), fusion_id, Figures(device_seconds=100))
    chunks.publish(parts, "chunks/00002-b.parquet", fused.slice(6), fusion_id, Figures())
    pairs = [{**pair, "laion_2b": "new"} if row in (7, 12) else pair for row, pair in enumerate(PAIRS[:20])]
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    lines: list[str] = []
    result = fuse_file(source, target, settings.model_copy(update={"chunk_rows": 3}), on_line=lines.append)
    captions = [json.loads(line)["capsfusion"] for line in target.read_text().splitlines()]
    again = {row for row, caption in enumerate(captions) if caption != f"finished {row}"}
    assert again == {*range(6), 7, 12}
    assert "20/20 rows (12 of an earlier try)" in lines[-1]
    assert (result.figures.rows, result.figures.device_seconds > 100) == (20, True)
    assert not Path(f"{target}.parts").exists()


def test_a_row_without_a_caption_gets_null_and_is_named(tmp_path: Path, settings: Settings) -> None:
    source = tmp_path / "in.json"
    source.write_text(
        json.dumps([PAIRS[0], {"laion_2b": None, "laion_coco": "x"}, {"laion_2b": "y", "laion_coco": " \x1f\u200b"}])
    )
    result = fuse_file(source, tmp_path / "out.json", settings, on_line=lambda line: None)
    captions = [row["capsfusion"] for row in json.loads((tmp_path / "out.json").read_text())]
    assert captions[0]
    assert captions[1:] == [None, None]
    assert [failed[:3] for failed in result.failed] == [
        (2, "laion_2b is empty", None),
        (3, "laion_coco is empty", None),
    ]


def test_parquet_keeps_its_types(tmp_path: Path, settings: Settings) -> None:
    table = pa.table(
        {
            "laion_2b": pa.array(["a b", "c"], pa.large_string()),
            "laion_coco": pa.array(["x", "y"]).dictionary_encode(),
            "ids": pa.array([1, None], pa.int16()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    fuse(tmp_path / "in.parquet", tmp_path / "out.parquet", settings)
    assert pq.read_table(tmp_path / "out.parquet").drop_columns("capsfusion").equals(table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", '{"laion_2b": "a"}\n', "row 1 has no laion_coco; it has laion_2b"),
        ("in.jsonl", '{"laion_2b": "a", "laion_coco": "b"}\n{"laion', r"row 2 \(line 2\) is not valid JSON"),
        ("in.jsonl", '{"laion_2b": 7, "laion_coco": "b"}\n', "row 1: laion_2b must be text, but is 7"),
        ("in.json", '{"laion_2b": "a", "laion_coco": "b"}', "contains one object; expected a list of objects"),
        ("in.json", "[1]", "row 1: expected an object, got 1"),
        ("in.csv", "a,b", "no laion_2b and no laion_coco; it has a, b: name the captions' columns with --raw-column"),
        ("in.txt", "a,b", "must end in .json, .jsonl, .ndjson, .csv, .tsv"),
        ("in.parquet", "PAR1 and no more", "cannot be read as Parquet"),
        ("in.jsonl", '{"laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}', "row 1 already has a column"),
        (
            "in.json",
            '[{"laion_2b": "a", "laion_coco": "b"}, {"laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}]',
            "row 2 already has a column capsfusion",
        ),
    ],
)
def test_bad_files_are_refused_with_what_is_wrong(
    tmp_path: Path, settings: Settings, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        fuse(tmp_path / name, tmp_path / "out.jsonl", settings)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_dtype_without_its_gpu_and_weights_that_are_cut_short_are_refused_before_torchrun_starts(
    pairs_file: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("torchrun was started")

    monkeypatch.setattr("capsfusion_tasks.fusion.files.torchrun_argv", start)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="float8 needs a GPU"):
        fuse(pairs_file, tmp_path / "out.jsonl", settings.model_copy(update={"dtype": "float8"}))
    model = shutil.copytree(BUNDLED_MODEL, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as weights: it is cut short"):
        fuse(pairs_file, tmp_path / "out.jsonl", settings.model_copy(update={"model": str(model)}))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet", "out.json"])
def test_an_empty_list_becomes_a_file_that_can_be_validated(tmp_path: Path, settings: Settings, name: str) -> None:
    (tmp_path / "in.json").write_text("[]")
    fuse(tmp_path / "in.json", tmp_path / name, settings)
    done = CliRunner().invoke(app, ["validate", str(tmp_path / name), "--out", str(tmp_path / "checked.csv")])
    assert done.exit_code == 0, done.exception
    assert (tmp_path / "checked.csv").read_text().startswith("laion_2b,laion_coco,capsfusion,")


@pytest.mark.parametrize(
    ("raw", "advice"),
    [
        ("laion_2b", "no ids; it has laion_2b, laion_coco: name the column of ids with --id-column"),
        ("alt", "--synthetic-column; name the column of ids with --id-column"),
    ],
)
def test_a_missing_column_of_ids_is_named_with_its_option(
    tmp_path: Path, settings: Settings, raw: str, advice: str
) -> None:
    (tmp_path / "in.csv").write_text("laion_2b,laion_coco\na,b\n")
    with pytest.raises(InputError, match=advice):
        fuse_file(tmp_path / "in.csv", tmp_path / "out.csv", settings, columns=PairColumns(raw, row_id="ids"))


def test_rows_that_parquet_cannot_hold_are_refused_before_they_are_fused(tmp_path: Path, settings: Settings) -> None:
    rows = [{"laion_2b": "a", "laion_coco": "b", "id": row} for row in (1, "two")]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"rows 1 to 2: 'id' cannot become a column.*\.jsonl"):
        fuse(tmp_path / "in.json", tmp_path / "out.parquet", settings)
    assert os.listdir(tmp_path) == ["in.json"]


def test_columns_have_any_names_and_failed_rows_are_called_by_their_id(tmp_path: Path, settings: Settings) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.ndjson.gz"
    source.write_text('number,alt,made\n7,"Vlylun Crossing, photo",A street.\n8,,A street.\n9,Vlylun,  \n')
    columns = PairColumns("alt", "made", "number")
    result = fuse_file(source, target, settings, columns=columns, on_line=lambda line: None)
    with gzip.open(target, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    assert [row.pop("capsfusion") is None for row in rows] == [False, True, True]
    assert rows == [
        {"number": "7", "alt": "Vlylun Crossing, photo", "made": "A street."},
        {"number": "8", "alt": "", "made": "A street."},
        {"number": "9", "alt": "Vlylun", "made": "  "},
    ]
    assert result.failed == [(2, "alt is empty", "8", source), (3, "made is empty", "9", source)]
    with pytest.raises(InputError, match="column alt is named for both"):
        fuse_file(source, tmp_path / "x.csv", settings, columns=PairColumns("alt", "alt"))


def test_another_command_on_the_same_output_is_told_to_wait(
    pairs_file: Path, tmp_path: Path, settings: Settings
) -> None:
    target = tmp_path / "out.jsonl"
    with parts_folder(target) as parts:
        (parts / "kept").touch()
        with pytest.raises(NotReadyError, match=rf"another capsfusion fuse \(process {os.getpid()}\) is writing .*out"):
            fuse(pairs_file, target, settings)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl.parts", "pairs.jsonl"]
    assert os.listdir(parts) == ["kept"]
    fuse(pairs_file, target, settings)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "pairs.jsonl"]


def test_a_file_that_is_missing_later_on_is_not_taken_for_a_missing_lock(tmp_path: Path) -> None:
    def read_a_missing_file() -> None:
        with parts_folder(tmp_path / "out.jsonl") as parts:
            (parts / "kept").touch()
            (tmp_path / "gone.jsonl").read_text()

    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl"):
        read_a_missing_file()
    assert os.listdir(tmp_path / "out.jsonl.parts") == ["kept"]


@pytest.mark.parametrize("change", ["grows", "is cut", "is replaced"])
def test_an_input_that_changes_while_it_is_fused_is_refused_and_finished_rows_are_kept(
    pairs_file: Path, tmp_path: Path, settings: Settings, change: str
) -> None:
    lines = pairs_file.read_text().splitlines(keepends=True)
    after = {"grows": [*lines, lines[0]], "is cut": lines[:-1], "is replaced": lines}[change]

    def on_line(line: str) -> None:
        if (
            "50/50 rows" in line and change == "is replaced"
        ):  # the copy has the same pairs, but other columns could have changed
            os.replace(shutil.copy(pairs_file, tmp_path / "copy"), pairs_file)
        elif "50/50 rows" in line:
            pairs_file.write_text("".join(after))

    with pytest.raises(InputError, match=r"pairs\.jsonl changed while it was read"):
        fuse_file(pairs_file, tmp_path / "out.jsonl", settings, on_line=on_line)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl.parts", "pairs.jsonl"]
    said = fuse(pairs_file, tmp_path / "out.jsonl", settings)
    assert f"{len(after)}/{len(after)} rows ({min(50, len(after))} of an earlier try)" in said[-1]
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["key"] for row in written] == [json.loads(line)["key"] for line in after]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_what_the_output_cannot_hold_is_found_before_a_row_is_fused(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("capsfusion_tasks.fusion.files.Torchrun", None)
    latin = pa.array([b"good"] * 9 + [b"caf\xe9"]).view(pa.string())
    pq.write_table(
        pa.table({"laion_2b": ["a"] * 10, "laion_coco": ["b"] * 10, "other": latin}), tmp_path / "in.parquet"
    )
    with pytest.raises(InputError, match=r"in\.parquet, rows 1 to 10: column other has text that is not UTF-8"):
        fuse(tmp_path / "in.parquet", tmp_path / f"out{suffix}", settings)
    assert os.listdir(tmp_path) == ["in.parquet"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pairs.jsonl", "is the input: choose another name"),
        ("link.jsonl", "is the input: choose another name"),
        ("folder.jsonl", "it is a folder"),
        ("no/out.jsonl", "there is no folder"),
        (f"{'x' * 240}.jsonl", "File name too long; choose another name"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_a_row_is_fused(
    pairs_file: Path, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr("capsfusion_tasks.fusion.files.Torchrun", None)
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to(pairs_file)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=message):
        fuse_file(pairs_file, tmp_path / name, settings, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("stats", ["there.json", "pairs.jsonl", "out.jsonl", "no/stats.json"])
def test_a_file_of_stats_that_would_overwrite_another_is_refused_at_once(
    pairs_file: Path, tmp_path: Path, stats: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capsfusion_tasks.fusion.files.fuse_files", None)
    (tmp_path / "there.json").write_text("precious")
    done = CliRunner().invoke(
        app, ["fuse", str(pairs_file), str(tmp_path / "out.jsonl"), "--stats", str(tmp_path / stats)]
    )
    assert isinstance(done.exception, InputError)
    assert (tmp_path / "there.json").read_text() == "precious"


def test_an_output_that_is_there_is_not_overwritten(pairs_file: Path, tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(InputError, match="--overwrite"):
        fuse(pairs_file, tmp_path / "out.jsonl", settings)
    assert (tmp_path / "out.jsonl").read_text() == "precious"


def test_an_unknown_model_is_one_clear_line_and_exit_code_2(pairs_file: Path, tmp_path: Path) -> None:
    done = capsfusion("fuse", pairs_file, tmp_path / "out.jsonl", "--model", tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith(b"capsfusion: error: no model at ")
    assert done.stderr.count(b"\n") == 1
