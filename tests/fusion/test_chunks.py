from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.storage import Storage


def pairs(rows: int, word: str = "raw") -> pa.Table:
    return pa.table(
        {"laion_2b": [f"{word} {n}" for n in range(rows)], "laion_coco": [None if n == 3 else "s" for n in range(rows)]}
    )


def fused_rows(chunk: chunks.Chunk) -> list[dict[str, Any]]:
    return [
        {"row": row, "capsfusion": f"c{row}", "finish_reason": "stop", "prompt_tokens": 5, "caption_tokens": 2}
        for row in reversed(range(chunk.start, chunk.stop))
    ]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_chunks_cover_each_row_once(storage: Storage) -> None:
    cut = chunks.cut_chunks(pairs(10), "chunks", "f", chunk_rows=4)
    assert [(c.start, c.stop, c.path) for c in cut] == [
        (0, 4, "chunks/00000.parquet"),
        (4, 8, "chunks/00001.parquet"),
        (8, 10, "chunks/00002.parquet"),
    ]


def test_collected_chunks_are_in_row_order_whatever_the_order_they_were_fused_in(storage: Storage) -> None:
    cut = chunks.cut_chunks(pairs(10), "chunks", "f", chunk_rows=4)
    for chunk in reversed(cut):
        chunks.publish(storage, chunk, fused_rows(chunk), chunks.Figures(chunk.rows, 20, 8, 1.5, 3, 4))
    assert chunks.collect(storage, cut)["capsfusion"].to_pylist() == [f"c{n}" for n in range(10)]
    assert chunks.figures(storage, cut).as_dict() == {
        "rows": 10,
        "prompt_tokens": 60,
        "caption_tokens": 24,
        "gpu_seconds": 4.5,
        "rows_per_second": 2.222,
        "tokens_per_second": 5.333,
        "occupancy": 0.75,
    }


@pytest.mark.parametrize(
    ("other_pairs", "fusion_id", "chunk_rows"),
    [(pairs(10, "new"), "f", 4), (pairs(10), "g", 4), (pairs(10), "f", 5)],
    ids=["other input", "other fusion", "other rows"],
)
def test_a_chunk_of_something_else_is_not_taken_for_done(
    storage: Storage, other_pairs: pa.Table, fusion_id: str, chunk_rows: int
) -> None:
    for chunk in chunks.cut_chunks(pairs(10), "chunks", "f", chunk_rows=4):
        chunks.publish(storage, chunk, fused_rows(chunk), chunks.Figures())
        assert chunks.is_done(storage, chunk)
    first = chunks.cut_chunks(other_pairs, "chunks", fusion_id, chunk_rows)[0]
    assert not chunks.is_done(storage, first)


def test_a_null_caption_is_not_an_empty_one() -> None:
    table = pa.table({"laion_2b": ["a"], "laion_coco": pa.array([None], pa.string())})
    empty = pa.table({"laion_2b": ["a"], "laion_coco": [""]})
    assert chunks.cut_chunks(table, "c", "f", 4)[0].fingerprint != chunks.cut_chunks(empty, "c", "f", 4)[0].fingerprint


def test_a_chunk_that_lacks_a_row_is_not_published(storage: Storage) -> None:
    chunk = chunks.cut_chunks(pairs(4), "chunks", "f", chunk_rows=4)[0]
    with pytest.raises(RuntimeError, match="wants rows 0 to 3 once each"):
        chunks.publish(storage, chunk, fused_rows(chunk)[1:], chunks.Figures())
    assert not storage.exists(chunk.path)


def test_collecting_names_the_chunk_that_is_missing(storage: Storage) -> None:
    cut = chunks.cut_chunks(pairs(8), "chunks", "f", chunk_rows=4)
    chunks.publish(storage, cut[0], fused_rows(cut[0]), chunks.Figures())
    with pytest.raises(RuntimeError, match=r"1 of 2 chunks are not fused, the first is chunks/00001\.parquet"):
        chunks.collect(storage, cut)
    with pytest.raises(RuntimeError, match=r"1 of 2 chunks are not fused, the first is chunks/00001\.parquet"):
        chunks.figures(storage, cut)
