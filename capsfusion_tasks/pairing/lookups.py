"""Lookups: copies of a bucket's old rows. A join reads from a lookup only the rows that have the URL of a new row.

New rows are the rows of the shards of the interval that is joined. The rows of all other shards are old.

A lookup contains the rows of some shards, sorted by a key, which is a hash of the URL. Each lookup has three files.
``.rows`` has each row as a record. ``.parquet`` has the key, the shard and the position of each record. ``.json`` is
written last and lists the shards of the lookup. The copy of a shard's rows is valid as long as the size of the shard's
bucket file does not change.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.records import read_records
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

VERSION = 3  # increase this number when records or keys change: lookups of other versions are not used

# Keys have 40 bits. In a bucket of a million rows, one URL in a million shares its key with another URL. A shared key
# cannot cause a wrong pair, because the join compares URLs.
_KEY_MASK = (1 << 40) - 1
_ROWS_AT_ONCE = 1 << 14
# Records that are less than this many bytes apart are read together in one request. On S3, another request takes as
# long as reading 64 KiB, so it is faster to read smaller gaps too.
_GAP, _REMOTE_GAP = 256, 64 << 10
_REMOTE_READERS = 16

KEYS = pa.schema(
    [
        pa.field("key", pa.int64(), nullable=False),
        # The position in ``.rows`` where the record ends. The next record begins there.
        pa.field("end", pa.int64(), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)


@dataclass(frozen=True)
class Lookup:
    """The content of a lookup's ``.json``, without shards whose bucket file was replaced or removed."""

    name: str
    side: Side
    bucket: int
    shards: dict[str, int]  # shard → bytes of its bucket file
    rows: int
    dictionary: str

    @property
    def path(self) -> str:
        """The path of the lookup's files, without their endings (``.rows``, ``.parquet``, ``.json``)."""
        return f"{layout.lookups_folder(self.side, self.bucket)}/{self.name}"

    def publish(self, storage: Storage, rules: PullRules) -> None:
        storage.write_json(f"{self.path}.json", {**asdict(self), **_validity(rules)})


def _validity(rules: PullRules) -> dict[str, object]:
    return {"version": VERSION, "rules": asdict(rules)}


def lookups_of(storage: Storage, side: Side, bucket: int, files: dict[str, int], rules: PullRules) -> list[Lookup]:
    """The bucket's lookups that are valid for ``rules``.

    ``files``: shard → bytes of its bucket file. Leaves out a lookup's shards whose bucket file is gone or has another
    size than when the lookup was made.
    """
    found = []
    for path in storage.files(layout.lookups_folder(side, bucket)):
        if path.endswith(".json"):
            try:
                said = storage.read_json(path)
            except (FileNotFoundError, InputError):  # another task has deleted the file, or the file is damaged
                continue
            if {name: said.pop(name) for name in ("version", "rules")} == _validity(rules):
                lookup = Lookup(**said)
                found.append(replace(lookup, shards=dict(lookup.shards.items() & files.items())))
    return found


def needed(found: list[Lookup]) -> list[Lookup]:
    """The lookups, largest first, without those whose shards are all in larger lookups."""
    used: list[Lookup] = []
    for lookup in sorted(found, key=lambda one: (-one.rows, one.name)):
        if lookup.shards.keys() - {shard for one in used for shard in one.shards}:
            used.append(lookup)
    return used


def url_keys(urls: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The key of each URL, [rows] int64: the same on every machine and in every version of this project."""
    hashes = b"".join(map(mmh3.hash_bytes, urls.cast(pa.binary()).to_pylist()))
    return np.frombuffer(hashes, "<i8")[::2] & _KEY_MASK  # the first 8 bytes of each hash of 16 bytes


def find(storage: Storage, lookup: Lookup, keys: np.ndarray, shards: set[str]) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Find the lookup's rows that belong to one of ``shards`` and whose key is in ``keys``.

    Yields the rows as pairs: a table of rows, and an array with the shard id of each of these rows. ``keys`` is sorted,
    without duplicates, [n] int64.
    """
    table = storage.read_table(f"{lookup.path}.parquet")
    mine, ends = table["key"].to_numpy(), table["end"].to_numpy()
    first, last = (np.searchsorted(mine, keys, side=side) for side in ("left", "right"))
    counts = last - first
    hits = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
    origin = table["shard"].combine_chunks().take(pa.array(hits)).cast(pa.string())
    wanted = pc.is_in(origin, value_set=pa.array(sorted(shards), pa.string()))
    hits, origin = hits[wanted.to_numpy(zero_copy_only=False)], origin.filter(wanted)
    if not len(hits):
        return
    starts = np.where(hits > 0, ends[hits - 1], 0)
    records = read_records(storage, lookup.side, lookup.dictionary)
    for at in range(0, len(hits), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        found = _read(storage, f"{lookup.path}.rows", starts[part], ends[hits[part]])
        yield records.decode(found), origin[part]


def _read(storage: Storage, path: str, starts: np.ndarray, ends: np.ndarray) -> list[bytes]:
    """Read the bytes from ``starts[i]`` to ``ends[i]``, for each i. Both arrays are sorted."""
    apart = np.flatnonzero(starts[1:] - ends[:-1] >= (_GAP if storage.is_local else _REMOTE_GAP)) + 1
    groups = list(zip([0, *apart.tolist()], [*apart.tolist(), len(starts)], strict=True))
    first_of, end_of = starts.tolist(), ends.tolist()
    with storage.answering(), storage.random_access(path) as read_at:

        def read(group: tuple[int, int]) -> list[bytes]:
            first, end = first_of[group[0]], end_of[group[1] - 1]
            data = read_at(end - first, first)
            places = zip(first_of[slice(*group)], end_of[slice(*group)], strict=True)
            return [data[start - first : stop - first] for start, stop in places]

        if storage.is_local:
            return [record for group in groups for record in read(group)]
        with ThreadPoolExecutor(_REMOTE_READERS) as readers:
            return [record for found in readers.map(read, groups) for record in found]
