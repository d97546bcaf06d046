"""Reads the rows of one side (LAION-2B or LAION-COCO) in one bucket. A hash of the URL decides a row's bucket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing import lookups
from capsfusion_tasks.pairing.lookups import Lookup
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import BUCKET_ROWS, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# Lookups are copies of old rows (see lookups.py). A join uses them only if they have more than this many rows for each
# distinct URL of the new rows. If they have fewer rows, reading all old rows from the bucket files is as fast.
_SAVES_FROM = 1.0
_ROWS = BUCKET_ROWS.append(pa.field("shard", pa.int32())).append(pa.field("is_new", pa.bool_()))


@dataclass(frozen=True)
class BucketSide:
    """The files of one side in a bucket, one file per shard. Rows of the shards in ``new`` are new, all others are old.

    Old rows that are in ``lookups`` are read from these lookups, and only if the keys of their URLs are in ``keys``.
    All other rows are read from the files. Reading raises InputError if a file was pulled with settings that differ
    from ``rules``.
    """

    storage: Storage
    side: Side
    bucket: int
    files: dict[str, int]  # path → bytes
    new: set[str]
    rules: PullRules
    lookups: tuple[Lookup, ...] = ()
    # The keys (hashes) of the new rows' URLs, [n] int64, sorted and unique.
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, storage: Storage, side: Side, bucket: int, new: set[str], rules: PullRules) -> BucketSide:
        return cls(storage, side, bucket, storage.sizes(layout.bucket_folder(side, bucket)), new, rules)

    def only(self, shards: set[str]) -> BucketSide:
        return replace(self, files={path: size for path, size in self.files.items() if _shard(path) in shards})

    def only_new(self) -> BucketSide:
        return self.only(self.new)

    def with_lookups(self, found: list[Lookup]) -> BucketSide:
        """Return a copy of this side that reads old rows from the lookups ``found``.

        The copy ignores lookups without old rows, and lookups whose shards are all in larger lookups.
        """
        used = (lookup for lookup in lookups.needed(found) if lookup.shards.keys() - self.new)
        return replace(self, lookups=tuple(used))

    @property
    def has_new(self) -> bool:
        return any(_shard(path) in self.new for path in self.files)

    @property
    def shards(self) -> list[str]:
        """The ids of the shards that have a file here, sorted."""
        return sorted(_shard(path) for path in self.files)

    @property
    def has_old(self) -> bool:
        return any(_shard(path) not in self.new for path in self.files)

    @property
    def sizes(self) -> dict[str, int]:
        """Id of each shard → bytes of its file."""
        return {_shard(path): size for path, size in self.files.items()}

    @property
    def bytes(self) -> int:
        """Bytes of the files that are read completely. Lookups do not count, because a join reads few of their rows."""
        return sum(self.files[path] for path in self._read_whole())

    def rows(self, failures: list[Exception] | None = None) -> pa.RecordBatchReader:
        """All rows, with columns ``shard`` (an index into ``shards``) and ``is_new``. Reads one batch after another.

        Old rows from lookups are included only if a new row has the same URL. If reading fails, the error is also added
        to ``failures``, because DuckDB, which calls the reader, raises its own error instead.
        """

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                with self._no_file_gone():
                    yield from self._batches()
            except Exception as error:
                if failures is not None:
                    failures.append(error)
                raise

        return pa.RecordBatchReader.from_batches(_ROWS, batches())

    def urls(self) -> Iterator[pa.Array]:
        """The URLs of all rows, read from the files, not from lookups."""
        with self._no_file_gone():
            for read in self._scanned(list(self.files), ["url"]):
                yield read.record_batch["url"]

    @contextmanager
    def _no_file_gone(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            where = self.storage.path(layout.bucket_folder(self.side, self.bucket))
            raise NotReadyError(
                f"a file in {where} was deleted while the bucket was joined ({error}), for example because another task"
                " pulls the file's shard again: try again"
            ) from error

    def _in_lookups(self) -> set[str]:
        return {shard for lookup in self.lookups for shard in lookup.shards} - self.new

    def _read_whole(self) -> list[str]:
        found = self._in_lookups()
        return [path for path in self.files if _shard(path) not in found]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        numbers = {shard: number for number, shard in enumerate(self.shards)}
        for read in self._scanned(self._read_whole(), BUCKET_ROWS.names):
            self._require_rules(read.fragment)
            batch, shard = read.record_batch, _shard(read.fragment.path)
            origin = (pa.scalar(numbers[shard], pa.int32()), pa.scalar(shard in self.new))
            more = [pa.repeat(value, batch.num_rows) for value in origin]
            yield pa.record_batch([*batch.columns, *more], schema=_ROWS)
        for lookup in self.lookups:
            for rows, shards in lookups.find(self.storage, lookup, self.keys, lookup.shards.keys() - self.new):
                more = [
                    pa.array([numbers[shard] for shard in shards.to_pylist()], pa.int32()),
                    pa.repeat(False, rows.num_rows),
                ]
                yield from pa.table([*rows.columns, *more], schema=_ROWS).to_batches()

    def _scanned(self, files: list[str], columns: list[str]) -> Iterator[ds.TaggedRecordBatch]:
        dataset = ds.dataset(files, BUCKET_ROWS, format="parquet", filesystem=self.storage.filesystem)
        scanner = dataset.scanner(columns, batch_readahead=4, fragment_readahead=2)
        return iter(scanner.scan_batches()) if files else iter(())

    def _require_rules(self, file: ds.ParquetFileFragment) -> None:
        # Check every file, because a run with other settings can replace files while this run reads them.
        footer = file.metadata.metadata or {}  # costs no extra request, because reading rows needs the footer anyway
        made_with = PullRules.recorded(
            {key.decode(): value.decode("utf-8", "replace") for key, value in footer.items()}
        )
        if made_with is not None and made_with != self.rules:
            where = self.storage.path(file.path)
            raise InputError(f"{where} was pulled with {made_with.against(self.rules)}: run the shard's interval again")


def _shard(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")


def with_keys(raw: BucketSide, coco: BucketSide) -> tuple[BucketSide, BucketSide]:
    """Return copies of both sides, with ``keys`` set to the keys of the URLs of all new rows.

    If the lookups have at most ``_SAVES_FROM`` rows per key, the returned sides use no lookups.
    """
    copied = sum(lookup.rows for side in (raw, coco) for lookup in side.lookups)
    if not copied:
        return raw, coco
    parts = [lookups.url_keys(urls) for side in (raw, coco) for urls in side.only_new().urls()]
    keys = np.unique(np.concatenate(parts))
    if len(keys) * _SAVES_FROM >= copied:
        return replace(raw, lookups=()), replace(coco, lookups=())
    return replace(raw, keys=keys), replace(coco, keys=keys)
