"""Parquet files that are small on disk and claim or inflate to what no memory holds: each fails alone, and clearly."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing import buckets, ceiling
from capsfusion_tasks.pairing.columns import Counts
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.hostile.footers import nested_file, vast_file

MIB = 1 << 20


def split(file: Path, folder: Path) -> Counts:
    shard = Shard(
        shard_id="s",
        side="laion_2b",
        source=str(file.parent),
        path=file.name,
        etag="1",
        size_bytes=file.stat().st_size,
        arrived_at=datetime(2026, 11, 10, tzinfo=UTC),
    )
    settings = load_settings(buckets=1, scratch=folder / "scratch")
    with pa.OSFile(str(file)) as stream:
        return buckets.split_shard(stream, shard, Storage(str(folder / "staging")), settings)


@pytest.fixture(autouse=True)
def low_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same at a fraction, for the sake of whoever else is on this machine."""
    monkeypatch.setattr(ceiling, "_MOST", 256 * MIB)
    monkeypatch.setattr(buckets, "_HELD_BYTES", 16 * MIB)


@pytest.mark.parametrize("typed", [True, False], ids=["Arrow's dictionary type", "plain text"])
def test_one_long_text_that_a_dictionary_repeats_a_million_times(tmp_path: Path, typed: bool) -> None:
    rows = 1_000_000  # of a MiB each: a terabyte in five kilobytes
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * MIB]))
    file = tmp_path / "bomb.parquet"
    table = pa.table({"URL": texts, "TEXT": texts})
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=typed)
    assert file.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"bomb\.parquet (inflates to more than 0\.2 GiB|cannot be read)"):
        split(file, tmp_path)
    assert not list((tmp_path / "staging").rglob("*.parquet"))
    assert bytes(300 * MIB), "the limit is gone with the block"


def test_pages_that_inflate_a_thousandfold(tmp_path: Path) -> None:
    file = tmp_path / "bomb.parquet"
    texts = pa.array(["x" * MIB] * 40)
    schema = pa.schema([("URL", pa.string()), ("TEXT", pa.string())])
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(4):
            writer.write_table(pa.table({"URL": texts, "TEXT": texts}))
    assert file.stat().st_size < MIB, "320 MiB"
    # Read in pieces, and split through scratch: long captions are no reason to refuse a shard.
    assert split(file, tmp_path).rows == 160
    assert pq.read_metadata(tmp_path / "staging" / layout.bucket_file("laion_2b", 0, "s")).num_rows == 160


@pytest.mark.parametrize("rows", [1000, 10**12, 2**62])
def test_a_footer_that_claims_terabytes(tmp_path: Path, rows: int) -> None:
    (tmp_path / "vast.parquet").write_bytes(vast_file(rows, total_bytes=10**13))
    with pytest.raises(InputError, match=r"vast\.parquet cannot be read as Parquet"):
        split(tmp_path / "vast.parquet", tmp_path)


@pytest.mark.parametrize("depth", [1000, 200_000])
def test_columns_nested_without_end(tmp_path: Path, depth: int) -> None:
    (tmp_path / "deep.parquet").write_bytes(nested_file(depth))
    with pytest.raises(InputError, match=r"deep\.parquet cannot be read as Parquet .*nested"):
        split(tmp_path / "deep.parquet", tmp_path)
