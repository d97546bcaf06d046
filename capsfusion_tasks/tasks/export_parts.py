"""Writes the Parquet files of an export. The same rows give the same bytes."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.hub_folder import HubFolder
from capsfusion_tasks.warehouse.adbc_session import plain_type
from capsfusion_tasks.warehouse.export import FUSION, KEY

ROW_GROUP_ROWS = 50_000  # about 15 MB; writers and readers keep a whole row group in memory

Target = Storage | HubFolder


class Part(BaseModel):
    """A finished Parquet file of an export."""

    file: str
    rows: int
    bytes: int
    sha256: str
    first_pair_id: str
    last_pair_id: str
    fusions: dict[str, int]  # fusion_id → number of rows


def write_part(target: Target, name: str, rows: Rows, most: int) -> Part | None:
    """Write a file with the next ``most`` rows of ``rows``, or fewer at the end. Return None if no row is left."""
    group = rows.take(min(ROW_GROUP_ROWS, most))
    if group is None:
        return None
    count, first, last, fusions = 0, "", "", Counter[str]()
    with target.publish(name) as stream:
        digesting = Digesting(stream)
        with pq.ParquetWriter(digesting, rows.schema, compression="zstd") as writer:
            while group:
                writer.write_table(group.select(rows.schema.names).cast(rows.schema))
                first, last = first or group[KEY][0].as_py(), group[KEY][-1].as_py()
                for value in pc.value_counts(group[FUSION]).to_pylist():
                    fusions[value["values"]] += value["counts"]
                count += group.num_rows
                group = rows.take(min(ROW_GROUP_ROWS, most - count))
    return Part(
        file=name,
        rows=count,
        bytes=digesting.bytes,
        sha256=digesting.sha256.hexdigest(),
        first_pair_id=first,
        last_pair_id=last,
        fusions=dict(sorted(fusions.items())),
    )


class Rows:
    """Reads a stream of record batches in pieces of any number of rows."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held = schema.empty_table()
        asked = [field for field in schema if field.name not in (KEY, FUSION)]
        self.schema = pa.schema([(field.name, plain_type(field.type)) for field in asked])

    def take(self, rows: int) -> pa.Table | None:
        """Return the next ``rows`` rows, or fewer at the end. Return None if no row is left."""
        tables = [self._held]
        missing = rows - self._held.num_rows
        while missing > 0 and (batch := next(self._batches, None)) is not None:
            tables.append(pa.Table.from_batches([batch]))
            missing -= batch.num_rows
        table = pa.concat_tables(tables)
        self._held = table.slice(rows)
        # Combine Arrow's chunks, so that the pages of the Parquet file do not depend on the sizes of the batches.
        return table.slice(0, rows).combine_chunks() if table.num_rows and rows else None


class Digesting(io.RawIOBase):
    """A file that writes to another file, and computes the number and the SHA-256 digest of the written bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)
