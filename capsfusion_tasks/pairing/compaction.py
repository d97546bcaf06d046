"""Creates lookups (sorted copies of a bucket's old rows, see ``lookups.py``), and merges small lookups.

A compaction can be killed at any moment. Joins and other compactions may run at the same time. A lookup is valid as
soon as its ``.json`` exists. Each lookup has its own name, so two tasks never write the same file. Joins do not read a
lookup whose shards are all in larger lookups. A file that joins no longer need is deleted only when no join can still
be reading it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from capsfusion_tasks.pairing.bucket_side import BucketSide
from capsfusion_tasks.pairing.lookups import KEYS, Lookup, lookups_of, needed, url_keys
from capsfusion_tasks.pairing.records import dictionary_name, ends_and_data, from_ends_and_data, read_records
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# Each join reads all old rows that are in no lookup. These rows get a lookup when their bucket files have more bytes
# than those of the new rows, and are more than _FEW_FILES files or have more than _FEW_BYTES bytes. So the cost of
# creating lookups stays proportional to the number of new rows.
_FEW_FILES, _FEW_BYTES = 16, 1 << 20
_MERGED = 4  # merge when this many lookups have about the same size, so that rows are rarely copied
_MOST_ROWS = 4 << 20  # maximum rows of a merged lookup; they take half a gigabyte of memory
_AT_ONCE_BYTES = 64 << 20  # maximum bytes of bucket files to copy into one lookup; a larger file gets its own lookup
_ENCODED = 1 << 16  # number of rows to encode as records at a time
# The age at which unneeded files are deleted. No join takes this long, so no join is still reading these files.
_UNUSED = timedelta(hours=6)


def compact(old: BucketSide, new_bytes: int) -> list[Lookup]:
    """Create lookups of the old rows that are in no lookup, if there are many such rows. Delete unneeded lookup files.

    Returns the lookups that a join reads. Every row also stays in its bucket file.
    """
    there = lookups_of(old.storage, old.side, old.bucket, old.sizes, old.rules)
    _delete_unused(old.storage, layout.lookups_folder(old.side, old.bucket), there)
    lookups = needed(there)
    bare = old.only(set(old.shards) - {shard for lookup in lookups for shard in lookup.shards} - old.new)
    if bare.bytes <= new_bytes or (len(bare.files) <= _FEW_FILES and bare.bytes <= _FEW_BYTES):
        return lookups
    lookups += [_made(part) for part in _parts(bare)]
    while group := _similar(lookups):
        merged = _merged(old, group)
        lookups = [lookup for lookup in lookups if lookup not in group] + [merged]
    return lookups


def _parts(bare: BucketSide) -> Iterator[BucketSide]:
    """Split ``bare``, the files that have no lookup yet, into parts that fit in memory."""
    part: dict[str, int] = {}
    for path, size in bare.files.items():
        if part and sum(part.values()) + size > _AT_ONCE_BYTES:
            yield replace(bare, files=part)
            part = {}
        part = {**part, path: size}
    yield replace(bare, files=part)


def _made(bare: BucketSide) -> Lookup:
    batches = bare.rows().read_all().combine_chunks()
    dictionary = dictionary_name(bare.storage, bare.side, batches)
    records = read_records(bare.storage, bare.side, dictionary)
    shards = pa.array(bare.shards, pa.string()).take(batches["shard"].combine_chunks())
    order = np.argsort(keys := url_keys(batches["url"]), kind="stable")
    rows = batches.take(pa.array(order))
    parts = [records.encode(rows.slice(at, _ENCODED)) for at in range(0, rows.num_rows, _ENCODED)]
    encoded = pa.concat_arrays([pa.array([], pa.large_binary()), *parts])
    return _publish(bare, dictionary, bare.sizes, keys[order], shards.take(pa.array(order)), encoded)


def _similar(lookups: list[Lookup]) -> list[Lookup]:
    """A group of lookups of about the same size that should be merged. [] if there is none."""
    levels: dict[tuple[str, int], list[Lookup]] = {}
    for lookup in lookups:
        level = int(np.log(max(1, lookup.rows)) / np.log(_MERGED))
        levels.setdefault((lookup.dictionary, level), []).append(lookup)
    large_enough = (group for group in levels.values() if len(group) >= _MERGED)
    return next((group for group in large_enough if sum(lookup.rows for lookup in group) <= _MOST_ROWS), [])


def _merged(side: BucketSide, lookups: list[Lookup]) -> Lookup:
    """Merge the lookups into one. Copies the records without decoding them."""
    keys, shards, records = [], [], []
    done: dict[str, int] = {}
    for lookup in sorted(lookups, key=lambda one: one.name):
        table = side.storage.read_table(f"{lookup.path}.parquet")
        with side.storage.answering(), side.storage.filesystem.open_input_stream(f"{lookup.path}.rows") as file:
            its_records = from_ends_and_data(table["end"].to_numpy(), file.read_buffer())
        its = table["shard"].combine_chunks().cast(pa.string())
        # Two concurrent tasks may have created lookups of the same shards. Take each shard's rows only once.
        wanted = pa.array(sorted(lookup.shards.keys() - done.keys()), pa.string())
        kept = pc.is_in(its, value_set=wanted)
        records.append(its_records.filter(kept))
        keys.append(table["key"].to_numpy()[kept.to_numpy(zero_copy_only=False)])
        shards.append(its.filter(kept))
        done |= lookup.shards
    key, shard = np.concatenate(keys), pa.concat_arrays(shards)
    order = np.argsort(key, kind="stable")
    taken = pa.concat_arrays(records).take(pa.array(order))
    return _publish(side, lookups[0].dictionary, done, key[order], shard.take(pa.array(order)), taken)


def _publish(
    side: BucketSide,
    dictionary: str,
    shards: dict[str, int],
    keys: np.ndarray,
    origin: pa.Array,
    records: pa.LargeBinaryArray,
) -> Lookup:
    lookup = Lookup(uuid4().hex, side.side, side.bucket, shards, len(records), dictionary)
    ends, data = ends_and_data(records)
    table = pa.table([pa.array(keys), pa.array(ends), origin.dictionary_encode()], schema=KEYS)
    with side.storage.publish(f"{lookup.path}.rows") as file:
        file.write(data)
    packed = dict.fromkeys(("key", "end"), "DELTA_BINARY_PACKED")
    with side.storage.publish(f"{lookup.path}.parquet") as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=["shard"], column_encoding=packed)
    lookup.publish(side.storage, side.rules)
    return lookup


def _delete_unused(storage: Storage, folder: str, lookups: list[Lookup]) -> None:
    """Delete files that are older than _UNUSED and that no join reads. ``lookups``: all valid lookups.

    Keep a lookup whose shards are all in larger lookups, as long as one of these larger lookups is younger than
    _UNUSED. A join that began before the larger lookups existed can still be reading the smaller lookup.
    """
    with storage.answering():
        infos = storage.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    before = datetime.now(UTC) - _UNUSED
    old = {info.path: info.base_name.partition(".")[0] for info in infos if info.is_file and info.mtime <= before}
    settled = {lookup.name for lookup in needed([one for one in lookups if f"{one.path}.json" in old])}
    young = {lookup.name for lookup in lookups if f"{lookup.path}.json" not in old}
    # Delete the ``.json`` first, so that every lookup whose ``.json`` exists also has its other two files.
    for path in sorted(old, key=lambda path: not path.endswith(".json")):
        if old[path] not in settled | young:
            with suppress(FileNotFoundError):  # another compaction has deleted the file
                storage.delete(path)
