"""Hash buckets: each shard is split once, by a stable hash of the URL, so that partners meet in one bucket."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks import layout
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.columns import Counts, canonical_rows, source_columns
from capsfusion_tasks.schemas import BUCKET_ROWS, Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.storage import Storage

_BATCH_ROWS = 65_536
_HELD_ROWS = 1 << 19  # rows of a shard that are in memory at a time, whatever its size


def split_shard(stream: pa.NativeFile, shard: Shard, storage: Storage, settings: Settings) -> Counts:
    """Write the shard's usable rows to its bucket files; once done, a second call only returns the counts.

    Raises InputError for a file that is no Parquet, is cut short, or lacks a column.
    """
    check_bucket_count(storage, settings.buckets)
    if (done := split_counts(shard, storage)) is not None:
        return done
    counts = Counts()
    with ExitStack() as files:  # all published at its end, none if the shard turns out to be broken
        writers: dict[int, pq.ParquetWriter] = {}
        for table in _together(_read(stream, shard, settings, counts), _HELD_ROWS):
            for bucket, rows in _by_bucket(table, settings.buckets):
                if bucket not in writers:
                    path = layout.bucket_file(shard.side, bucket, shard.shard_id)
                    file = files.enter_context(storage.publish(path))
                    writer = pq.ParquetWriter(file, BUCKET_ROWS, compression="zstd")
                    writers[bucket] = files.enter_context(writer)
                writers[bucket].write_table(rows)
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
        # Not pre-buffered: that would fetch all row groups at once.
        with pq.ParquetFile(stream, pre_buffer=False) as file:
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


def _together(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least ``rows`` rows each, but the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.num_rows for part in held) >= rows:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _by_bucket(table: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    """Each bucket that has rows of ``table``, with them, in their order."""
    numbers = bucket_numbers(table["url"], buckets)
    order = np.argsort(numbers, kind="stable")
    table = table.combine_chunks().take(pa.array(order))
    found, starts = np.unique(numbers[order], return_index=True)
    stops = np.append(starts, table.num_rows)[1:]
    for bucket, start, stop in zip(found, starts, stops, strict=True):
        yield int(bucket), table.slice(start, stop - start)


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
