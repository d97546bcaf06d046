from __future__ import annotations

import errno
import io
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing import buckets
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

SETTINGS = load_settings(buckets=4)
ROWS = pa.table({"URL": [f"http://a/{n}.jpg" for n in range(1000)], "TEXT": [f"text {n}" for n in range(1000)]})


def shard_of(file: Path) -> Shard:
    return Shard(
        shard_id="s",
        side="laion_2b",
        source=str(file.parent),
        path=file.name,
        etag="1",
        size_bytes=file.stat().st_size,
        arrived_at=datetime(2026, 11, 10, tzinfo=UTC),
    )


def split(file: Path, staging: Path, expected: int = 1000, dropped: dict[str, int] | None = None) -> list[pa.Table]:
    """Split ``file`` into bucket files. Returns their tables."""
    storage = Storage(str(staging))
    with pa.OSFile(str(file)) as stream:
        counts = buckets.split_shard(stream, shard_of(file), storage, SETTINGS)
    assert (counts.rows, counts.dropped) == (expected, dropped or {})
    paths = [layout.bucket_file("laion_2b", bucket, "s") for bucket in range(4)]
    return [storage.read_table(path) for path in paths if storage.exists(path)]


def test_a_shard_that_does_not_fit_in_memory_is_split_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(ROWS, tmp_path / "shard.parquet", row_group_size=90)
    whole = split(tmp_path / "shard.parquet", tmp_path / "whole")
    monkeypatch.setattr(buckets, "_HELD_ROWS", 64)
    monkeypatch.setattr(buckets, "_BATCH_ROWS", 64)
    parts = split(tmp_path / "shard.parquet", tmp_path / "parts")
    assert [part.equals(table) for part, table in zip(parts, whole, strict=True)] == [True] * 4
    file = layout.bucket_file("laion_2b", 0, "s")
    assert pq.ParquetFile(tmp_path / "parts" / file).num_row_groups > 1
    assert pq.ParquetFile(tmp_path / "whole" / file).num_row_groups == 1
    assert sorted(row for table in parts for row in table["row"].to_pylist()) == list(range(1000))


def test_many_small_row_groups_are_put_together_in_order() -> None:
    parts = (ROWS.slice(first, 10) for _ in range(27) for first in range(0, 1000, 10))
    found = list(buckets.together(parts, 4_005))
    assert [table.num_rows for table in found] == [4_010] * 6 + [2_940]
    assert pa.concat_tables(found).equals(pa.concat_tables([ROWS] * 27))


def test_a_shard_that_breaks_off_in_the_middle_leaves_no_bucket_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_HELD_ROWS", 64)
    # A scratch folder of its own, because other processes use the default one.
    scratch = tmp_path / "scratch"
    monkeypatch.setattr(f"{__name__}.SETTINGS", SETTINGS.model_copy(update={"scratch": scratch}))
    monkeypatch.setattr(buckets, "_BATCH_ROWS", 64)
    file = tmp_path / "shard.parquet"
    pq.write_table(ROWS, file, row_group_size=100)
    damaged = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(7).column(0).data_page_offset
    damaged[start : start + 200] = b"\xff" * 200
    file.write_bytes(damaged)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        split(file, tmp_path / "staging")
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file() and "s.parquet" in path.name] == []
    assert scratch.is_dir()
    assert list(scratch.glob("split-*")) == []


class FailingDisk(io.FileIO):
    """A file on a disk that fails after the footer has been read."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() < 1000:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(-1 if size is None else size)


def test_a_shard_whose_disk_fails_is_tried_again(tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "shard.parquet")
    shard, storage = shard_of(tmp_path / "shard.parquet"), Storage(str(tmp_path / "staging"))
    with (
        pa.PythonFile(FailingDisk(tmp_path / "shard.parquet"), "r") as stream,
        pytest.raises(NotReadyError, match=r"shard\.parquet cannot be read at the moment \(.*Input/output error"),
    ):
        buckets.split_shard(stream, shard, storage, SETTINGS)


@pytest.mark.parametrize("rows", [0, None], ids=["no rows", "no row groups"])
def test_a_file_without_rows_is_a_shard_without_rows(tmp_path: Path, rows: int | None) -> None:
    file = tmp_path / "shard.parquet"
    if rows is None:
        pq.ParquetWriter(file, ROWS.schema).close()
        assert pq.ParquetFile(file).num_row_groups == 0
    else:
        pq.write_table(ROWS.slice(0, 0), file)
    assert split(file, tmp_path / "staging", expected=0) == []


def test_a_shard_of_which_no_row_is_of_use_makes_no_bucket(tmp_path: Path) -> None:
    pq.write_table(ROWS.set_column(1, "TEXT", pa.nulls(1000, pa.string())), tmp_path / "shard.parquet")
    assert split(tmp_path / "shard.parquet", tmp_path / "staging", dropped={"null_caption": 1000}) == []


def test_a_text_file_that_is_named_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "shard.parquet").write_text("url,caption\n" * 1000)
    with pytest.raises(InputError, match=r"shard\.parquet cannot be read as Parquet"):
        split(tmp_path / "shard.parquet", tmp_path / "staging")


def test_the_bucket_of_a_url_never_changes() -> None:
    urls = pa.chunked_array([["http://a/0.jpg", "http://a/1.jpg", "ü", ""]])
    assert buckets.bucket_numbers(urls, 1000).tolist() == [216, 107, 274, 0]
