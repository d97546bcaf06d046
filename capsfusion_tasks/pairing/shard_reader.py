"""Reads a shard. Another process decodes it, so that no file can exhaust the memory of this process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pyarrow as pa

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing import shard_decoder as decoder
from capsfusion_tasks.pairing.machine import available_memory

_MOST = 8 << 30  # maximum memory for decoding, in bytes; a normal shard takes a tenth of it
_REPLACE = "replace the file; the new file counts as a new shard"


def read_batches(
    stream: pa.NativeFile, where: str, choose: Callable[[pa.Schema], list[str]], batch_rows: int, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Read the columns that ``choose`` selects from a Parquet file, in batches without dictionary types.

    A batch has at most ``batch_rows`` rows and about ``batch_bytes`` bytes. Raises InputError if the file cannot be
    read, or if decoding takes more than 8 GiB or more than half of this machine's memory. ``where`` names the file in
    messages. Also raises the errors of ``stream`` and ``choose``.
    """
    extra = min(_MOST, available_memory() // 2)
    refused: InputError | None = None  # raised after the block, because an error inside it would stop the decoder
    with _decoder() as process:
        try:
            job = {"extra": extra, "size": stream.size(), "batch_rows": batch_rows, "batch_bytes": batch_bytes}
            process.send(json.dumps(job).encode())
            while True:
                kind, content = process.receive(), process.receive()
                if kind == decoder.READ:
                    offset, length = decoder.RANGE.unpack(content)
                    process.send(_read(stream, where, length, offset))
                elif kind == decoder.SCHEMA:
                    columns = None
                    try:
                        columns = choose(pa.ipc.read_schema(pa.py_buffer(content)))
                    except InputError as error:
                        refused = error
                    process.send(json.dumps(columns).encode())
                elif kind == decoder.ROWS:
                    with pa.ipc.open_stream(content) as batches:
                        yield from batches
                elif kind == decoder.TOO_LARGE:
                    raise InputError(
                        f"{where} inflates to more than {extra / (1 << 30):.1f} GiB in memory, which no caption file"
                        f" needs: {_REPLACE}"
                    )
                else:
                    if kind == decoder.BROKEN:
                        refused = InputError(f"{where} cannot be read as Parquet ({content.decode()}): {_REPLACE}")
                    break
        except (EOFError, ConnectionError) as error:
            raise process.ended(where) from error
    if refused is not None:
        raise refused


def _read(stream: pa.NativeFile, where: str, length: int, offset: int) -> bytes:
    try:
        data: bytes = stream.read_at(length, offset)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise NotReadyError(f"{where} cannot be read at the moment ({reason}): try again later") from error
    return data


class _Decoder:
    """A process that runs ``shard_decoder`` and decodes one file after another."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        with its:
            # -P keeps the script's folder off the import path. The modules in this folder have common names, and could
            # be imported instead of other modules with these names.
            self._process = subprocess.Popen(
                [sys.executable, "-P", decoder.__file__, str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                # Arrow must use the system's malloc. Arrow's own allocator reserves a gigabyte at once, which would
                # count towards the memory limit.
                env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"},
            )
        self._connection = Connection(ours.detach())
        self.send, self.receive = self._connection.send_bytes, self._connection.recv_bytes

    def ended(self, where: str) -> InputError | NotReadyError:
        """The error for a process that ended in the middle of a file."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return NotReadyError(
                f"{where}: the process that decodes it was killed, perhaps because memory ran out: try again"
            )
        return InputError(f"{where} cannot be read as Parquet (decoding ends with exit code {code}): {_REPLACE}")

    def stop(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


_idle: dict[int, list[_Decoder]] = {}  # key: process id; a forked child must not use its parent's decoders
_lock = threading.Lock()


@contextmanager
def _decoder() -> Iterator[_Decoder]:
    """Yield a process that decodes a file.

    If the block succeeds, later calls reuse the process, because starting another one takes 0.3 s.
    """
    with _lock:
        kept = _idle.setdefault(os.getpid(), [])
        process = kept.pop() if kept else None
    process = process or _Decoder()
    try:
        yield process
    except BaseException:
        process.stop()
        raise
    with _lock:
        kept.append(process)
