"""Encodes rows as records that can be read one by one. A record is a JSON list, compressed with a shared dictionary."""

from __future__ import annotations

import hashlib
import json
import threading
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
import zstandard

from capsfusion_tasks.schemas import BUCKET_ROWS, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

_DICTIONARY_BYTES = 32 << 10
_SAMPLED_ROWS = 8192
_TRAINED_ROWS = 1024  # with fewer rows, no dictionary can be trained, so the rows themselves become the dictionary
_training = threading.Lock()  # concurrent joins in one process must create only one dictionary


class Records:
    """Encodes and decodes records with one dictionary."""

    def __init__(self, dictionary: bytes) -> None:
        shared = zstandard.ZstdCompressionDict(dictionary)
        self._compressor = zstandard.ZstdCompressor(level=1, dict_data=shared, write_dict_id=False)
        self._decompressor = zstandard.ZstdDecompressor(dict_data=shared)

    def encode(self, rows: pa.Table) -> pa.LargeBinaryArray:
        """A record for each row of ``rows`` (``schemas.BUCKET_ROWS``)."""
        lines = _lines(rows)
        ends, data = ends_and_data(lines)
        places = np.stack([np.concatenate([[0], ends[:-1]]), np.diff(ends, prepend=0)], axis=1).astype(np.uint64)
        compressed = self._compressor.multi_compress_to_buffer(zstandard.BufferWithSegments(data, places.tobytes()))
        return pa.array([compressed[row].tobytes() for row in range(len(lines))], pa.large_binary())

    def decode(self, records: list[bytes]) -> pa.Table:
        """The rows of ``records`` (``schemas.BUCKET_ROWS``)."""
        lines = map(self._decompressor.decompress, records)
        values = json.loads(b"[" + b",".join(lines) + b"]")
        columns = zip(*values, strict=True) if values else [[] for _ in BUCKET_ROWS]
        return pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, BUCKET_ROWS, strict=True)],
            schema=BUCKET_ROWS,
        )


def ends_and_data(records: pa.LargeBinaryArray) -> tuple[np.ndarray, pa.Buffer]:
    """The end of each record, [records] int64, and all records concatenated. The first record begins at 0."""
    _, offsets, data = records.buffers()
    places = np.frombuffer(offsets, np.int64)[records.offset : records.offset + len(records) + 1]
    first, end = (int(places[0]), int(places[-1])) if len(records) else (0, 0)
    return places[1:] - first, data.slice(first, end - first) if data else pa.py_buffer(b"")


def from_ends_and_data(ends: np.ndarray, data: pa.Buffer) -> pa.LargeBinaryArray:
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    return pa.Array.from_buffers(pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), data])


@cache
def _json_writer() -> duckdb.DuckDBPyConnection:
    """One DuckDB connection for all calls. Opening one for each call takes as long as writing a thousand rows."""
    return duckdb.connect(config={"threads": 1})


def _lines(rows: pa.Table) -> pa.LargeBinaryArray:
    """Each row as JSON. DuckDB writes all digits of a float, so that numbers stay the same when they are read."""
    with _json_writer().cursor() as connection:
        connection.register("bucket_rows", rows.select(BUCKET_ROWS.names))
        columns = ", ".join(f'"{name}"' for name in BUCKET_ROWS.names)
        made = connection.sql(f"select json_array({columns})::varchar as line from bucket_rows")  # noqa: S608
        return made.to_arrow_table()["line"].cast(pa.large_binary()).combine_chunks()


def dictionary_name(storage: Storage, side: Side, rows: pa.Table) -> str:
    """The name of the side's compression dictionary. The first call creates the dictionary from ``rows``."""
    with _training:
        # Two processes may each create a dictionary. Both files stay, because a record can only be read with the
        # dictionary that it was written with.
        for path in storage.files(layout.dictionaries_folder(side)):
            return path.rpartition("/")[2]
        content = _train(_lines(rows.slice(0, _SAMPLED_ROWS)).to_pylist())
        name = hashlib.blake2b(content, digest_size=8).hexdigest()
        with storage.publish(layout.dictionary_file(side, name)) as file:
            file.write(content)
        return name


def _train(samples: list[bytes]) -> bytes:
    if len(samples) < _TRAINED_ROWS:
        return b"".join(samples)[:_DICTIONARY_BYTES]
    return zstandard.train_dictionary(_DICTIONARY_BYTES, [*samples]).as_bytes()


def read_records(storage: Storage, side: Side, name: str) -> Records:
    """The encoder and decoder of records that use the dictionary ``name``."""
    with storage.answering(), storage.filesystem.open_input_stream(layout.dictionary_file(side, name)) as stream:
        return Records(stream.read())
