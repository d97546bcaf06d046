"""Hash buckets: each shard is split once, by a stable hash of the URL, so that partners meet in one bucket."""

from __future__ import annotations

from collections.abc import Iterator

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks import layout
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.columns import Counts, canonical_rows, source_columns
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.storage import Storage

_BATCH_ROWS = 65_536


def split_shard(stream: pa.NativeFile, shard: Shard, storage: Storage, settings: Settings) -> Counts:
    """Write the shard's usable rows to its bucket files; once done, a second call only returns the counts.

    Raises InputError for a file that is no Parquet, is cut short, or lacks a column.
    """
    check_bucket_count(storage, settings.buckets)
    if (done := split_counts(shard, storage)) is not None:
        return done
    counts = Counts()
    parts: list[list[pa.Table]] = [[] for _ in range(settings.buckets)]
    for table in _read(stream, shard, settings, counts):
        numbers = bucket_numbers(table["url"], settings.buckets)
        for bucket in np.unique(numbers):
            parts[bucket].append(table.filter(pa.array(numbers == bucket)))
    for bucket, tables in enumerate(parts):
        if tables:
            path = layout.bucket_file(shard.side, bucket, shard.shard_id)
            storage.write_table(path, pa.concat_tables(tables))
    mark = layout.pulled_mark(shard.side, shard.shard_id)
    storage.write_json(mark, {"rows": counts.rows, "dropped": counts.dropped})
    return counts


def split_counts(shard: Shard, storage: Storage) -> Counts | None:
    """The counts of a shard that is split already; None: it is not."""
    mark = layout.pulled_mark(shard.side, shard.shard_id)
    return Counts(**storage.read_json(mark)) if storage.exists(mark) else None


def _read(stream: pa.NativeFile, shard: Shard, settings: Settings, counts: Counts) -> Iterator[pa.Table]:
    where = f"{shard.source}/{shard.path}"
    try:
        with pq.ParquetFile(stream) as file:
            names = source_columns(file.schema_arrow, shard.side, settings, where)
            first_row = 0
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(names.values())):
                yield canonical_rows(batch, names, first_row, shard.side, settings, counts)
                first_row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{where} cannot be read as Parquet ({reason}): replace it; the new file is a new shard"
        ) from error


def bucket_numbers(urls: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """The bucket of each URL, [rows] int32: MurmurHash3, the same on every machine and in every version."""
    hashes = (mmh3.hash(url, signed=False) for url in urls.to_pylist())
    return np.fromiter(hashes, dtype=np.int64, count=len(urls)).astype(np.int64) % buckets


def check_bucket_count(storage: Storage, buckets: int) -> None:
    """Hold the bucket count of a staging area fixed: partners in buckets of different counts would never meet."""
    if not storage.exists(layout.BUCKETS_CONFIG):
        storage.write_json(layout.BUCKETS_CONFIG, {"buckets": buckets})
    there = storage.read_json(layout.BUCKETS_CONFIG)["buckets"]
    if there != buckets:
        raise InputError(
            f"the staging area {storage.root} was split into {there} buckets and CAPSFUSION_BUCKETS is {buckets}: "
            f"set it to {there}, or choose an empty staging area"
        )
