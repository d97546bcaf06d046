"""Stores rows by bucket (a hash of the URL) on the scratch disk, so that splitting large shards needs little memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from capsfusion_tasks.schemas import BUCKET_ROWS


class BucketSpill:
    """Takes tables, and returns their rows by bucket. Rows of a bucket keep their order.

    Each table becomes a file in ``folder`` with one record batch of Arrow per bucket. Unlike files in Arrow's file
    format, these files have no footers, because each call of ``rows`` would read the footers again.
    """

    def __init__(self, folder: Path, schema: pa.Schema = BUCKET_ROWS) -> None:
        self.folder = folder
        self._schema = schema
        self._places: list[dict[int, tuple[int, int]]] = []  # for each file: bucket → start and size of its batch
        self.counts: Counter[int] = Counter()  # bucket → number of rows

    def add(self, table: pa.Table, buckets: np.ndarray) -> None:
        """Store the rows of ``table``. ``buckets``: each row's bucket, [rows] int. A negative bucket drops the row."""
        order = np.argsort(buckets, kind="stable")
        order = order[np.searchsorted(buckets[order], 0) :]
        table = table.take(pa.array(order)).combine_chunks().cast(self._schema)
        found, starts = np.unique(buckets[order], return_index=True)
        stops = np.append(starts, table.num_rows)[1:]
        places = {}
        with self._path(len(self._places)).open("wb") as file:
            for bucket, start, stop in zip(found.tolist(), starts, stops, strict=True):
                [batch] = table.slice(start, stop - start).to_batches()
                places[bucket] = file.tell(), file.write(batch.serialize())
        self.counts.update(dict(zip(found.tolist(), (stops - starts).tolist(), strict=True)))
        self._places.append(places)

    def buckets(self) -> list[int]:
        return sorted(set().union(*self._places))

    def rows(self, bucket: int) -> Iterator[pa.Table]:
        for number, places in enumerate(self._places):
            if bucket in places:
                start, size = places[bucket]
                with self._path(number).open("rb") as file:
                    file.seek(start)
                    batch = pa.ipc.read_record_batch(pa.py_buffer(file.read(size)), self._schema)
                yield pa.Table.from_batches([batch])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.batches"
