"""Tests `validate_file`, which gives verdicts for a whole file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.cli.files import validate
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.validation.files import tried_settings, validate_file
from capsfusion_tasks.validation.rules import DEFAULTS
from capsfusion_tasks.validation.validate import JUDGED

GOOD = {"laion_2b": "Rex the dog", "laion_coco": "A dog on grass.", "capsfusion": "Rex the dog is on green grass."}
CUT = {**GOOD, "capsfusion": "Rex the dog is on"}


def test_batches_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsfusion_tasks.validation.files.ROWS_AT_ONCE", 2)
    (tmp_path / "in.json").write_text(json.dumps([GOOD, GOOD, GOOD, CUT, CUT]))
    found = validate_file(tmp_path / "in.json", out=tmp_path / "out.parquet")
    assert (found.tally.rows, found.tally.accepted, found.tally.reasons) == (5, 3, {"truncated": 2})
    assert [example.caption for example in found.tally.examples["truncated"]] == ["Rex the dog is on"]
    assert found.histograms["caption_words"].sum() == 5
    assert found.histograms["raw_recall"][-1] == 5  # a score of 1.0 counts in the last bin
    assert pq.read_table(tmp_path / "out.parquet")["reasons"].to_pylist() == [[], [], [], ["truncated"], ["truncated"]]
    assert validate_file(tmp_path / "in.json").tally == found.tally


def test_a_file_without_rows_has_verdicts_without_rows(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("")
    found = validate_file(tmp_path / "in.jsonl", out=tmp_path / "out.parquet")
    assert (found.tally.rows, found.tally.accepted, found.tally.reasons) == (0, 0, {})
    assert pq.read_table(tmp_path / "out.parquet").schema.names[:3] == ["laion_2b", "laion_coco", "capsfusion"]


def test_the_caption_may_stand_in_any_column_and_that_of_a_source_too(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps([GOOD]))
    assert validate_file(tmp_path / "in.json", "laion_coco").tally.rows == 1


OLDER = dict.fromkeys((*SCORES.names, "flags"), "an older verdict")  # exported captions have no reasons
ROWS: list[dict[str, Any]] = [
    {"url": "http://a/1\rb", **GOOD, **OLDER, "similarity": 0.25, "tags": ["a", "b"]},
    {"url": "http://a/2", **CUT, **dict.fromkeys(OLDER), "similarity": None, "tags": []},
]
KEPT = ["url", "laion_2b", "laion_coco", "capsfusion", "similarity", "tags"]


def source(folder: Path, suffix: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / f"in{suffix}"
    if suffix == ".parquet":
        pq.write_table(
            pa.table({name: [row.get(name) for row in rows] for name in rows[-1]}).replace_schema_metadata(
                {"made by": "us"}
            ),
            path,
            row_group_size=1,
        )
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="") as lines:
            return list(csv.DictReader(lines))
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("target", [".parquet", ".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("origin", [".parquet", ".jsonl", ".json"])
def test_all_columns_are_kept_in_their_order_with_the_verdicts_behind_them(
    tmp_path: Path, origin: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capsfusion_tasks.validation.files.ROWS_AT_ONCE", 1)
    out = tmp_path / f"out{target}"
    validate_file(source(tmp_path, origin), out=out)
    rows = read(out)
    assert [list(row) for row in rows] == [[*KEPT, *JUDGED.names]] * 2
    if target == ".csv":
        assert [(row["url"], row["tags"], row["similarity"], row["reasons"]) for row in rows] == [
            ("http://a/1\rb", '["a", "b"]', "0.25", "[]"),
            ("http://a/2", "[]", "", '["truncated"]'),
        ]
    else:
        assert [{name: row[name] for name in KEPT} for row in rows] == [
            {name: row[name] for name in KEPT} for row in ROWS
        ]
        assert [row["reasons"] for row in rows] == [[], ["truncated"]]
    if origin == target == ".parquet":
        assert pq.read_schema(out).metadata[b"made by"] == b"us"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_columns_of_the_user_that_are_named_like_verdicts_are_not_replaced(tmp_path: Path, suffix: str) -> None:
    path = source(tmp_path, suffix, [GOOD, {**GOOD, "novelty": 7, "flags": "mine"}])
    with pytest.raises(InputError, match=r"in\.\w+ has its own columns novelty, flags: rename or drop them"):
        validate_file(path, out=tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert validate_file(path).tally.rows == 2


def test_json_gets_null_for_a_number_that_it_cannot_hold(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{**GOOD, "similarity": float("nan"), "scores": [float("inf"), 1.0]}])
    pq.write_table(table, tmp_path / "in.parquet")
    validate_file(tmp_path / "in.parquet", out=tmp_path / "out.jsonl")
    [row] = read(tmp_path / "out.jsonl")
    assert (row["similarity"], row["scores"]) == (None, [None, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "in.json"}, "is the input: choose another name"),
        ({"out": "link.json"}, "is the input: choose another name"),
        ({"out": "in.json", "overwrite": True}, "is the input: choose another name"),
        ({"out": "notes.jsonl"}, "exists already: choose another name, or add --overwrite"),
        ({"out": "verdicts.txt"}, "its name must end in .json, .jsonl"),
        ({"out": "no/folder.csv"}, "there is no folder"),
        ({"report": "in.json"}, "must end in .html"),
        ({"report": "page.html"}, "exists already"),
    ],
)
def test_no_other_file_is_written_over(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = source(tmp_path, ".json")
    (tmp_path / "link.json").symlink_to(path)
    for name in ("notes.jsonl", "page.html"):
        (tmp_path / name).write_text("notes")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    paths = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        validate(path, **paths)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_written_is_named_and_replaced_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("out.csv", "page.html"):
        (tmp_path / name).write_text("old")
    out, report = tmp_path / "out.csv", tmp_path / "page.html"
    validate(source(tmp_path, ".json"), out=out, report=report, overwrite=True, tried=["min_words=8"])
    told = capsys.readouterr().err.replace("\n", "")
    assert "out.csv: 2 rows with their verdicts" in told
    assert "page.html: the report" in told
    assert "with min_words=8 instead of 3: 1 of 2 verdicts change, 1 to rejected and 0 to accepted" in told
    assert len(read(out)) == 2
    assert "<mark>" in report.read_text()


def test_a_trial_counts_what_another_threshold_changes(tmp_path: Path) -> None:
    [trial] = tried_settings(["min_words=8"], DEFAULTS)
    found = validate_file(source(tmp_path, ".json"), trials=[trial])
    assert (trial.newly_rejected, trial.newly_accepted, dict(trial.reasons)) == (1, 0, {"too_short": 2})
    assert found.tally.reasons == {"truncated": 1}
    for change, message in (
        ("min_word=8", "expected name=value, where name is one of min_words"),
        ("min_words", "expected name=value"),
        ("min_words=few", "cannot try 'min_words=few'"),
    ):
        with pytest.raises(InputError, match=message):
            tried_settings([change], DEFAULTS)
