"""Small Parquet files whose claimed or decompressed size exceeds memory. Only their shards fail, with a clear error."""

from __future__ import annotations

import io
import resource
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing import buckets, shard_reader
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
    """Lower the memory limits, so that a small test file exceeds them."""
    monkeypatch.setattr(shard_reader, "_MOST", 256 * MIB)
    monkeypatch.setattr(buckets, "_HELD_BYTES", 16 * MIB)


@pytest.mark.parametrize("typed", [True, False], ids=["Arrow's dictionary type", "plain text"])
def test_one_long_text_that_a_dictionary_repeats_a_million_times(tmp_path: Path, typed: bool) -> None:
    # Each row has 1 MiB. So the file has a terabyte of text in less than ten kilobytes.
    rows = 1_000_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * MIB]))
    file = tmp_path / "bomb.parquet"
    table = pa.table({"URL": texts, "TEXT": texts})
    pq.write_table(table, file, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=typed)
    assert file.stat().st_size < 10_000
    with pytest.raises(InputError, match=r"bomb\.parquet (inflates to more than 0\.2 GiB|cannot be read)"):
        split(file, tmp_path)
    assert not list((tmp_path / "staging").rglob("*.parquet"))


def test_pages_that_inflate_a_thousandfold(tmp_path: Path) -> None:
    file = tmp_path / "bomb.parquet"
    texts = pa.array(["x" * MIB] * 10)
    schema = pa.schema([("URL", pa.string()), ("TEXT", pa.string())])
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(16):
            writer.write_table(pa.table({"URL": texts, "TEXT": texts}))
    assert file.stat().st_size < MIB, "320 MiB"
    # A shard is not refused for long captions. It is read in pieces, and split into buckets through scratch files.
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


def test_a_bomb_leaves_the_limits_of_this_process_alone_and_the_next_shard_is_read(tmp_path: Path) -> None:
    rows = 100_000
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * MIB]))
    bomb = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"URL": texts, "TEXT": texts}), bomb, compression="zstd", dictionary_pagesize_limit=1 << 30)
    limits = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            limits.append(resource.getrlimit(resource.RLIMIT_AS))
            return super().read(size)

    def rows_of(content: bytes) -> int:
        batches = shard_reader.read_batches(
            pa.PythonFile(Stream(content), "r"), "it", lambda _: ["URL"], 1000, 16 * MIB
        )
        return sum(batch.num_rows for batch in batches)

    with pytest.raises(InputError, match="it inflates to more than"):
        rows_of(bomb.read_bytes())
    assert set(limits) == {resource.getrlimit(resource.RLIMIT_AS)}
    sound = io.BytesIO()
    pq.write_table(pa.table({"URL": ["a"] * 2500}), sound)
    assert [rows_of(sound.getvalue()) for _ in range(2)] == [2500, 2500]


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [(signal.SIGKILL, NotReadyError, "perhaps because memory ran out"), (signal.SIGSEGV, InputError, "exit code -11")],
)
def test_a_decoder_that_dies_is_an_error_of_its_shard(
    number: signal.Signals, error: type[Exception], message: str
) -> None:
    sound = io.BytesIO()
    pq.write_table(pa.table({"URL": ["a"] * 2500}), sound)

    def choose(schema: pa.Schema) -> list[str]:
        for child in psutil.Process().children():
            if child.status() != psutil.STATUS_ZOMBIE and any("shard_decoder" in part for part in child.cmdline()):
                child.send_signal(number)
                # Wait for the exit code, by which the reader notices that the process died.
                while child.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.01)
        return list(schema.names)

    with pytest.raises(error, match=message):
        list(shard_reader.read_batches(pa.BufferReader(sound.getvalue()), "it", choose, 1000, MIB))
