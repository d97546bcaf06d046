"""Splits each shard (a Parquet file with captions) into buckets, by a stable hash of the URL.

Rows with the same URL are in the same bucket.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import mmh3
import numpy as np
import pyarrow as pa

from capsfusion_tasks.errors import printable
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.columns import Counts, canonical_rows, source_columns
from capsfusion_tasks.pairing.shard_reader import read_batches
from capsfusion_tasks.pairing.spill import BucketSpill
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import BUCKET_ROWS, Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout, scratch
from capsfusion_tasks.staging.storage import Storage

log = logging.getLogger(__name__)

_HELD_ROWS = 1 << 18  # rows of each table that is split or written; a table becomes a row group of a bucket file
_HELD_BYTES = 256 << 20  # bytes of such a table; if rows are long, a table reaches this limit before _HELD_ROWS
_BATCH_ROWS = 1 << 16  # rows of a decoded batch; the next batch is decoded while this one is split
_WRITERS = 4  # number of bucket files to write in parallel; on S3 each file takes up to three round trips


def split_shard(stream: pa.NativeFile, shard: Shard, storage: Storage, settings: Settings) -> Counts:
    """Write the shard's usable rows (the rows that can form a pair) to its bucket files.

    If an earlier run split the shard with the same settings, only return the counts of that run. A shard that cannot be
    read to the end leaves no bucket files. Raises InputError if the shard is not Parquet, is cut short, or lacks a
    column.
    """
    buckets = bucket_count(storage, settings)
    if (done := split_counts(shard, storage, settings)) is not None:
        return done
    rules = PullRules.of(settings)
    counts = Counts()
    with scratch.temporary_folder(settings.scratch_folder, "split-", f"the rows of {shard.label}") as folder:
        spill = BucketSpill(folder)
        for table in together(_read(stream, shard, settings, counts), _HELD_ROWS):
            spill.add(table.select(BUCKET_ROWS.names), _numbers(table, buckets))
            log.info("%s: %d rows split into buckets so far", shard.label, counts.rows)

        def write(bucket: int) -> None:
            path = layout.bucket_file(shard.side, bucket, shard.shard_id)
            storage.write_tables(path, BUCKET_ROWS, together(spill.rows(bucket), _HELD_ROWS), rules.as_footer())

        # Another task may have split the shard meanwhile. Keep the files of that task: if this task died while
        # replacing them, no interval could be paired until the shard is pulled again.
        if (done := split_counts(shard, storage, settings)) is not None:
            return done
        rows_of_buckets = {layout.bucket_name(bucket): rows for bucket, rows in sorted(spill.counts.items())}
        before = pulled.begin(storage, shard, rules, rows_of_buckets)
        with ThreadPoolExecutor(_WRITERS) as writers:
            for _ in writers.map(write, spill.buckets()):
                pass
    # An earlier pull with other settings may have written files of the shard to other buckets. Delete these files,
    # because a join would read them.
    pulled.delete_files(storage, shard.side, shard.shard_id, before - rows_of_buckets.keys())
    pulled.publish(storage, shard, rules, counts, rows_of_buckets)
    return counts


def split_counts(shard: Shard, storage: Storage, settings: Settings) -> Counts | None:
    """The shard's row counts, if an earlier run split the shard with these settings. Otherwise None."""
    mark, rules = pulled.read(storage, shard.side, shard.shard_id), PullRules.of(settings)
    if mark is None or not pulled.is_whole(mark):
        return None
    made_with = pulled.rules_of(mark)
    if made_with is None:
        pulled.record(storage, shard.side, shard.shard_id, mark, rules)
    elif made_with != rules:
        log.info("%s is pulled again, because it was pulled with %s", shard.label, made_with.against(rules))
        return None
    return Counts(mark["rows"], mark["dropped"], mark.get("columns", {}))


def _read(stream: pa.NativeFile, shard: Shard, settings: Settings, counts: Counts) -> Iterator[pa.Table]:
    where = _where(shard)
    names: dict[str, str] = {}

    def choose(schema: pa.Schema) -> list[str]:
        names.update(source_columns(schema, shard.side, settings, where))
        counts.columns = names
        return list(names.values())

    first_row = 0
    for batch in read_batches(stream, where, choose, _BATCH_ROWS, _HELD_BYTES):
        yield canonical_rows(batch, names, first_row, shard.side, settings, counts)
        first_row += batch.num_rows


def _where(shard: Shard) -> str:
    return printable(f"{shard.source}/{shard.path}")


def together(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Concatenate consecutive ``tables`` into larger tables of at least ``rows`` rows or ``_HELD_BYTES`` bytes.

    The last table may be smaller.
    """
    held: list[pa.Table] = []
    held_rows = held_bytes = 0
    for table in tables:
        held.append(table)
        held_rows, held_bytes = held_rows + table.num_rows, held_bytes + table.nbytes
        if held_rows >= rows or held_bytes >= _HELD_BYTES:
            yield pa.concat_tables(held)
            held, held_rows, held_bytes = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def _numbers(table: pa.Table, buckets: int) -> np.ndarray:
    """The bucket of each row, [rows] int32. Negative if the row cannot make a pair."""
    return np.where(table["usable"].to_numpy(), bucket_numbers(table["url"], buckets), -1)


def bucket_numbers(urls: pa.ChunkedArray, buckets: int) -> np.ndarray:
    """The bucket of each URL, [rows] int32. A null URL counts as "".

    The bucket is computed with MurmurHash3, which is the same on every machine and in every version of this project.
    """
    hashes = np.fromiter((mmh3.hash(url or "") for url in urls.to_pylist()), dtype=np.int32, count=len(urls))
    return (hashes.view(np.uint32) % buckets).astype(np.int32)
