"""Tests chunk files: which rows count, that each row counts once, and how many requests a read makes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from moto.server import DomainDispatcherApplication

from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.finished import FinishedRows
from capsfusion_tasks.schemas import FUSED
from capsfusion_tasks.staging.storage import Storage
from tests import object_store


def made(rows: list[int], caption: str = "caption") -> pa.Table:
    """A table of fused rows with the numbers ``rows``, in this order."""
    return pa.Table.from_pylist([fused_row(row, caption) for row in rows], FUSED)


def fused_row(row: int, caption: str) -> dict[str, Any]:
    return {
        "row": row,
        "input": chunks.input_digest(f"raw {row}", "synthetic"),
        "capsfusion": f"{caption} {row}",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "caption_tokens": 2,
    }


def publish(storage: Storage, name: str, rows: pa.Table, fusion_id: str = "f", figures: Figures | None = None) -> None:
    chunks.publish(storage, f"chunks/{name}.parquet", rows, fusion_id, figures or Figures())


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_rows_are_collected_in_their_order_and_each_once_whatever_tries_have_finished_them(storage: Storage) -> None:
    publish(storage, "00000-aa", made([7, 2, 0]), figures=Figures(3, 15, 6, 1.5, 3, 4))
    publish(storage, "00001-aa", made([9, 1, 3]), figures=Figures(3, 15, 6, 2.0, 3, 4))
    publish(storage, "00002-bb", made([4, 8, 6, 5, 1, 2], "again"), figures=Figures(6, 30, 12, 1.0, 6, 8))
    fused = chunks.collect(storage, "chunks", "f", 10)
    first = {0, 1, 2, 3, 7, 9}
    assert fused["capsfusion"].to_pylist() == [f"{'caption' if n in first else 'again'} {n}" for n in range(10)]
    table, figures = chunks.figures(storage, "chunks", "f", 10)
    assert chunks.what_is_missing(table, 10) is None
    assert figures.as_dict() == {
        "rows": 10,
        "prompt_tokens": 50,
        "caption_tokens": 20,
        "gpu_seconds": 4.5,
        "rows_per_second": 2.222,
        "tokens_per_second": 4.444,
        "occupancy": 0.75,
    }


def test_rows_that_no_try_has_finished_are_named(storage: Storage) -> None:
    publish(storage, "00000-aa", made([*range(4), *range(20, 30)]))
    fused = chunks.collect(storage, "chunks", "f", 24, ["row"])
    assert chunks.what_is_missing(fused, 24) == "16 of its 24 rows are not fused: 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, …"


def test_rows_of_another_fusion_and_of_files_that_are_cut_short_are_not_taken(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(storage, "00000-aa", made([0]))
    publish(storage, "00001-aa", made([1]), fusion_id="g")
    publish(storage, "00002-aa", made([2]))
    storage.write_table("chunks/00003-aa.parquet", made([3]))  # a file whose footer lacks our metadata
    (tmp_path / "chunks" / "00004-aa.parquet").write_bytes(b"PAR1")
    whole = (tmp_path / "chunks" / "00002-aa.parquet").read_bytes()
    (tmp_path / "chunks" / "00002-aa.parquet").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert chunks.collect(storage, "chunks", "f", 5)["row"].to_pylist() == [0]
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(" cannot be read")[0][-16:] for line in said] == [f"0000{n}-aa.parquet" for n in (2, 3, 4)]
    assert all("its rows are fused again" in line for line in said)
    assert "its footer has no fusion_id" in said[1]


def test_a_null_caption_is_not_an_empty_one_and_texts_do_not_run_into_each_other() -> None:
    texts = [("a", None), ("a", ""), (None, "a"), ("", "a"), ("ab", "c"), ("a", "bc")]
    assert len({chunks.input_digest(*each) for each in texts}) == len(texts)


def test_finished_rows_are_read_by_range_oldest_first(storage: Storage) -> None:
    publish(storage, "00000-aa", made([5, 0, 3]))
    publish(storage, "00001-bb", made([3, 4], "again"))
    finished = FinishedRows(storage, "chunks", "f")
    for start in range(0, 8, 2):
        there = [n for n in (0, 3, 4, 5) if start <= n < start + 2]
        found = finished.between(start, start + 2).to_pylist()
        assert sorted({row["row"] for row in found}) == there
        assert [row["capsfusion"] for row in found if row["row"] == 3] == ["caption 3", "again 3"] * (3 in there)


def test_how_often_s3_is_asked_depends_on_files_not_on_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer = DomainDispatcherApplication.__call__

    def counted(app: Any, environ: dict[str, Any], start_response: Any) -> Any:
        asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return answer(app, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", counted)
    requests = []
    with object_store.serving("chunks") as uri:
        for rows in (100, 10_000):
            storage = Storage(f"{uri}/{rows}")
            for part in range(3):
                publish(storage, f"0000{part}-aa", made(list(range(part, rows, 3))))
            asked.clear()
            assert chunks.collect(storage, "chunks", "f", rows)["row"].to_pylist() == list(range(rows))
            requests.append(len(asked))
    assert requests == [1 + 3 * 3] * 2, "a listing; for each file its size, its footer, its rows"
