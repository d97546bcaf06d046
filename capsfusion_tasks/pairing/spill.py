"""Stores rows by bucket on the scratch disk, so that splitting a shard of any size takes little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from capsfusion_tasks.schemas import BUCKET_ROWS


class BucketSpill:
    """Takes tables, and returns their rows by bucket. Rows of a bucket keep their order.

    Each table becomes an Arrow file in ``folder`` with one record batch per bucket, so that each bucket can be read
    alone.
    """

    def __init__(self, folder: Path, schema: pa.Schema = BUCKET_ROWS) -> None:
        self.folder = folder
        self._schema = schema
        self._batches: list[dict[int, int]] = []  # for each file: bucket → number of the bucket's record batch
        self.counts: Counter[int] = Counter()  # bucket → number of rows

    def add(self, table: pa.Table, buckets: np.ndarray) -> None:
        """Store the rows of ``table``. ``buckets``: each row's bucket, [rows] int. A negative bucket drops the row."""
        order = np.argsort(buckets, kind="stable")
        order = order[np.searchsorted(buckets[order], 0) :]
        table = table.take(pa.array(order)).combine_chunks().cast(self._schema)
        found, starts = np.unique(buckets[order], return_index=True)
        stops = np.append(starts, table.num_rows)[1:]
        with pa.ipc.new_file(self._path(len(self._batches)), table.schema) as file:
            for start, stop in zip(starts, stops, strict=True):
                file.write_table(table.slice(start, stop - start))
        self.counts.update(dict(zip(found.tolist(), (stops - starts).tolist(), strict=True)))
        self._batches.append({int(bucket): number for number, bucket in enumerate(found)})

    def buckets(self) -> list[int]:
        return sorted(set().union(*self._batches))

    def rows(self, bucket: int) -> Iterator[pa.Table]:
        for number, batches in enumerate(self._batches):
            if bucket in batches:
                with pa.OSFile(self._path(number)) as file:
                    yield pa.Table.from_batches([pa.ipc.open_file(file).get_batch(batches[bucket])])

    def _path(self, number: int) -> str:
        return str(self.folder / f"{number:05d}.arrow")
