"""Reads the rows that one bucket has of one side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.dataset as ds

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import BUCKET_ROWS, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

_ROWS = BUCKET_ROWS.append(pa.field("shard", pa.int32())).append(pa.field("is_new", pa.bool_()))


@dataclass(frozen=True)
class BucketSide:
    """The files of one side in a bucket, one for each shard. A run pairs the rows of the shards ``new``.

    Reading a file that was pulled with other rules than ``rules`` raises InputError.
    """

    storage: Storage
    files: dict[str, int]  # path → bytes
    new: set[str]
    rules: PullRules

    @classmethod
    def of(cls, storage: Storage, side: Side, bucket: int, new: set[str], rules: PullRules) -> BucketSide:
        return cls(storage, storage.sizes(layout.bucket_folder(side, bucket)), new, rules)

    def only_new(self) -> BucketSide:
        return replace(self, files={path: size for path, size in self.files.items() if _shard(path) in self.new})

    @property
    def has_new(self) -> bool:
        return any(_shard(path) in self.new for path in self.files)

    @property
    def shards(self) -> list[str]:
        """The ids of the shards, sorted."""
        return sorted(_shard(path) for path in self.files)

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def rows(self) -> pa.RecordBatchReader:
        """All rows, with columns ``shard`` (an index into ``shards``) and ``is_new``. Reads files only as needed."""
        return pa.RecordBatchReader.from_batches(_ROWS, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        files = ds.dataset(list(self.files), BUCKET_ROWS, format="parquet", filesystem=self.storage.filesystem)
        numbers = {shard: number for number, shard in enumerate(self.shards)}
        for read in files.scanner(batch_readahead=4, fragment_readahead=2).scan_batches():
            self._require_rules(read.fragment)
            batch, shard = read.record_batch, _shard(read.fragment.path)
            origin = (pa.scalar(numbers[shard], pa.int32()), pa.scalar(shard in self.new))
            more = [pa.repeat(value, batch.num_rows) for value in origin]
            yield pa.record_batch([*batch.columns, *more], schema=_ROWS)

    def _require_rules(self, file: ds.ParquetFileFragment) -> None:
        # Checked for each file: a run with other settings can replace files while this run reads.
        footer = file.metadata.metadata or {}  # read with the rows
        made_with = PullRules.recorded(
            {key.decode(): value.decode("utf-8", "replace") for key, value in footer.items()}
        )
        if made_with is not None and made_with != self.rules:
            where = self.storage.path(file.path)
            raise InputError(f"{where} was pulled with {made_with.against(self.rules)}: run its interval again")


def _shard(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")
