"""Verdicts for a whole file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.validation.files import validate_file

GOOD = {"laion_2b": "Rex the dog", "laion_coco": "A dog on grass.", "capsfusion": "Rex the dog is on green grass."}
CUT = {**GOOD, "capsfusion": "Rex the dog is on"}


def test_batches_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsfusion_tasks.validation.files.ROWS_AT_ONCE", 2)
    (tmp_path / "in.json").write_text(json.dumps([GOOD, GOOD, GOOD, CUT, CUT]))
    found = validate_file(tmp_path / "in.json", out=tmp_path / "out.parquet")
    assert (found.tally.rows, found.tally.accepted, found.tally.reasons) == (5, 3, {"truncated": 2})
    assert [example.caption for example in found.tally.examples["truncated"]] == ["Rex the dog is on"]
    assert found.histograms["caption_words"].sum() == 5
    assert found.histograms["raw_recall"][-1] == 5  # 1.0 is in the last bin
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
