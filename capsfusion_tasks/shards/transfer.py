"""Downloads a shard by HTTP in parallel parts, and verifies it. A retry keeps the finished parts of a failed try."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx2
import pyarrow as pa

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import MayPass, retrying
from capsfusion_tasks.staging import full_disk
from capsfusion_tasks.staging.scratch import ROOM, abandoned, held, remove

_PART_BYTES = 32 << 20
_CONNECTIONS = 4
_STALE = timedelta(days=7)  # a failed download is deleted if no retry has resumed it for this long


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Expected:
    """What identifies the discovered shard: a download must have this size, and these headers or this checksum."""

    size_bytes: int
    unchanged: Callable[[httpx2.Response], bool] | None = None  # whether a response's headers are those of the shard
    checksum: str | None = None  # the result of ``digest`` for the whole file
    digest: Callable[[Path], str] = sha256


@contextmanager
def fetched(shard: Shard, address: web.Address, expected: Expected, scratch: Path) -> Iterator[pa.NativeFile]:
    """Download the shard to a local file, which is deleted at the end of the block.

    Raises InputError if a retry will not help. After any other error, the finished parts stay in ``scratch``, and a
    retry on the same machine requests only the missing parts.
    """
    with full_disk.explained(scratch, address.where, ROOM):
        scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in abandoned(scratch, _STALE):
        remove(left)
    folder = scratch / shard.shard_id
    with _owned(folder, address.where):
        try:
            with full_disk.explained(scratch, address.where, ROOM):
                file = _download(address, expected, folder)
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            with pa.OSFile(str(file)) as stream:
                yield stream
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _download(address: web.Address, expected: Expected, folder: Path) -> Path:
    file = folder / "data"
    data = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    # ``marks`` is a file with one byte for each part. The byte is 1 if the part is finished.
    marks = os.open(folder / f"parts-of-{_PART_BYTES}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _check_space(expected.size_bytes - os.fstat(data).st_blocks * 512, folder, address.where)
        os.truncate(data, expected.size_bytes)
        starts = range(0, expected.size_bytes, _PART_BYTES)
        there = os.pread(marks, len(starts), 0).ljust(len(starts), b"\0")
        missing = [
            _Part(n, start, min(start + _PART_BYTES, expected.size_bytes))
            for n, start in enumerate(starts)
            if not there[n]
        ]

        def mark(part: _Part) -> None:
            if part.number is not None:
                os.fdatasync(data)  # before the mark, so that the bytes of a marked part survive a crash
                os.pwrite(marks, b"\1", part.number)

        try:
            _fetch(missing, address, expected, data, mark)
        except _RangesIgnored:
            os.truncate(marks, 0)
            _fetch([_Part(None, 0, expected.size_bytes)], address, expected, data, mark)
    finally:
        os.close(data)
        os.close(marks)
    _verify(file, address, expected)
    return file


class _RangesIgnored(Exception):
    """The server ignores the header Range, and sends the whole file instead of a part."""


class _Part:
    """Bytes ``start`` to ``end`` of a download. The bytes before ``position`` are written already.

    ``number``: the part's number in the file; None if the part is the whole file. ``furthest``: the highest
    ``position`` that any try has reached, which shows whether a try made progress.
    """

    def __init__(self, number: int | None, start: int, end: int) -> None:
        self.number, self.end = number, end
        self.position = self.furthest = start


def _fetch(
    parts: list[_Part], address: web.Address, expected: Expected, data: int, mark: Callable[[_Part], None]
) -> None:
    """Download ``parts`` into the open file ``data``, several at a time. Calls ``mark`` for each finished part."""
    stop = threading.Event()
    causes: list[Exception] = []  # the first error stops the other parts, whose errors follow
    with web.client() as client, ThreadPoolExecutor(_CONNECTIONS) as pool:

        def fetch(part: _Part) -> None:
            if stop.is_set():
                return
            try:
                retrying(
                    lambda: _read(client, part, address, expected, data, stop),
                    address.where,
                    on=web.BROKEN,
                    progress=lambda: part.furthest,
                    stop=stop,
                )
                mark(part)
            except Exception as error:
                causes.append(error)
                stop.set()  # before this thread can begin another part

        try:
            wait([pool.submit(fetch, part) for part in parts])
        finally:  # stop the downloads of all threads, even if the task times out
            stop.set()
            pool.shutdown(cancel_futures=True)  # waits for the threads, which may still write to the open file
    if causes:
        raise causes[0]


def _read(
    client: httpx2.Client, part: _Part, address: web.Address, expected: Expected, data: int, stop: threading.Event
) -> None:
    """Request the missing bytes of ``part``, and write them to the open file ``data`` as they arrive."""
    with web.answer(client, "GET", address, Range=f"bytes={part.position}-{part.end - 1}") as response:
        if response.status_code == 200 and part.number is not None:
            raise _RangesIgnored
        first, size = web.content_range(response)
        if size not in (expected.size_bytes, None) or (expected.unchanged and not expected.unchanged(response)):
            sizes = "" if size in (expected.size_bytes, None) else f" ({size} bytes now, {expected.size_bytes} then)"
            raise InputError(
                f"{address.where} has changed since it was discovered{sizes}: the new file counts as a new shard of the"
                " interval in which it arrived"
            )
        if response.status_code == 206 and first != part.position:
            raise InputError(
                f"{address.where}: the server sent other bytes than requested; tell the server's administrator"
            )
        part.position = first
        for chunk in response.iter_raw():
            if stop.is_set():
                raise NotReadyError(f"{address.where}: stopped, because another part failed")
            if part.position + len(chunk) > part.end:
                raise InputError(
                    f"{address.where}: the server sent more bytes than requested; tell the server's administrator"
                )
            rest = memoryview(chunk)
            while rest:
                written = os.pwrite(data, rest, part.position)
                part.position, rest = part.position + written, rest[written:]
            part.furthest = max(part.furthest, part.position)
    if part.position < part.end:
        raise MayPass(f"the transfer ended {part.end - part.position} bytes early")


def _verify(file: Path, address: web.Address, expected: Expected) -> None:
    if expected.checksum is None:
        return
    found = expected.digest(file)
    if found != expected.checksum:
        shutil.rmtree(file.parent)  # delete all parts, because any of them may be wrong
        raise NotReadyError(
            f"{address.where} arrived with checksum {found} instead of {expected.checksum}: the download is deleted; "
            "try again. If it happens again, the file at the source is damaged"
        )


def _check_space(needed: int, folder: Path, where: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NotReadyError(
            f"no space for {where}: it needs {needed / 1e9:.2f} GB more and {free / 1e9:.2f} GB are free in {folder}: "
            f"{ROOM}, then run the task again, which resumes the download"
        )


@contextmanager
def _owned(folder: Path, where: str) -> Iterator[None]:
    """Lock ``folder`` for this process. A task that Airflow counts as failed may still write to it during the retry."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder))
        except BlockingIOError as error:
            raise NotReadyError(
                f"another process on this machine is reading {where}: try again when it is done"
            ) from error
        folder.mkdir(exist_ok=True)  # the previous owner of the lock may have removed the folder
        yield
