"""Decodes Parquet files with a limit on memory. ``shard_reader`` starts this script as a process and talks to it.

A Parquet file of five kilobytes can inflate to terabytes, and only decoding shows this. A memory limit applies to a
whole process. So decoding has its own process: otherwise other threads, such as uploads, would run out of memory too.

The caller sends a job (JSON) for each file. This process answers with messages. A message is a kind and a content.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Kinds of messages to the caller
READ = b"R"  # content: offset and length of the bytes that the caller must send
SCHEMA = b"S"  # content: an Arrow schema; the caller answers with a JSON list of columns, or null to end the job
ROWS = b"B"  # content: an Arrow stream of one batch
END = b"E"  # no content: the file is decoded, or the caller ended the job
TOO_LARGE = b"M"  # no content: decoding needs more memory than the limit
BROKEN = b"X"  # content: the reason why the file cannot be read

RANGE = struct.Struct("<QQ")


def _send(caller: Connection, kind: bytes, content: bytes | pa.Buffer = b"") -> None:
    caller.send_bytes(kind)
    # Kind and content are sent separately, because concatenating them would copy the content.
    caller.send_bytes(memoryview(content))


class _RemoteFile:
    """A file whose bytes the caller sends."""

    closed = False

    def __init__(self, caller: Connection, size: int) -> None:
        self._caller, self._size, self._at, self._lock = caller, size, 0, threading.Lock()

    def read(self, length: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        length = left if length < 0 else min(length, left)
        with self._lock:
            _send(self._caller, READ, RANGE.pack(self._at, length))
            data = self._caller.recv_bytes()
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False


def _decode(caller: Connection, size: int, batch_rows: int, batch_bytes: int) -> None:
    # Without pre-buffering, because it would fetch all row groups at once.
    with pq.ParquetFile(pa.PythonFile(_RemoteFile(caller, size), "r"), pre_buffer=False) as file:
        _send(caller, SCHEMA, file.schema_arrow.serialize())
        columns = json.loads(caller.recv_bytes())
        if columns is None:
            return
        for batch in file.iter_batches(_rows_at_once(file.metadata, batch_rows, batch_bytes), columns=columns):
            for part in _parts(_without_dictionaries(batch), batch_bytes):
                stream = pa.BufferOutputStream()
                with pa.ipc.new_stream(stream, part.schema) as writer:
                    writer.write_batch(part)
                _send(caller, ROWS, stream.getvalue())


def _rows_at_once(metadata: pq.FileMetaData, most_rows: int, most_bytes: int) -> int:
    """How many rows to read at a time: ``most_rows``, or fewer if the file's rows are very long."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(most_rows, most_bytes // max(1, longest)))


def _without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column for column in batch.columns
    ]
    return pa.record_batch(columns, batch.schema.names)


def _parts(batch: pa.RecordBatch, most_bytes: int) -> Iterator[pa.RecordBatch]:
    """Split ``batch`` into parts of about ``most_bytes``.

    ``_rows_at_once`` alone does not limit a batch's size, because it uses sizes in the footer, which may be wrong.
    """
    rows = max(1, batch.num_rows * most_bytes // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _limit_memory(extra: int) -> None:
    """Limit the memory of this process to ``extra`` bytes more than it uses now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (allowed if hard == resource.RLIM_INFINITY else min(allowed, hard), hard))


def main() -> None:
    # Ignore Ctrl-C (SIGINT), because the caller handles it. This process ends when the caller ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    caller = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        while _serve(caller):
            pass


def _serve(caller: Connection) -> bool:
    """Decode one file. Returns False if this process has no memory left for another file."""
    job = json.loads(caller.recv_bytes())
    try:
        _limit_memory(job["extra"])
        _decode(caller, job["size"], job["batch_rows"], job["batch_bytes"])
    except MemoryError:
        _send(caller, TOO_LARGE)
        return False
    except ConnectionError:
        raise
    # pyarrow raises UnicodeDecodeError for a column name that is not UTF-8.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _send(caller, BROKEN, (str(error).splitlines() or [type(error).__name__])[0].encode())
    else:
        _send(caller, END)
    return True


if __name__ == "__main__":
    main()
