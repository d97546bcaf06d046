"""Shards in a folder: on a disk, or on a file system that the workers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.shards.source import SourceFile


class LocalSource:
    """``*.parquet`` at any depth below a folder. A file arrives when it was last modified."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).expanduser().absolute()
        self.uri = str(self._folder)

    def files(self) -> Iterator[SourceFile]:
        if not self._folder.is_dir():
            raise InputError(f"no folder {self.uri}: create it, or name the folder in which shards arrive")
        for file in sorted(self._folder.rglob("*.parquet")):
            relative = file.relative_to(self._folder)
            if file.is_file() and not any(part.startswith((".", "_")) for part in relative.parts):
                yield self._describe(file, relative.as_posix())

    @contextmanager
    def open(self, path: str, etag: str) -> Iterator[pa.NativeFile]:
        file = self._folder / path
        if not file.is_file():
            raise InputError(
                f"{file} is gone: put it back with its old time, or run again over the interval it returns in"
            )
        if self._describe(file, path).etag != etag:
            raise InputError(f"{file} has changed since it was discovered: it counts as a new shard when it arrived")
        with pa.OSFile(str(file)) as stream:  # not mapped: a file cut short while it is read would kill the process
            yield stream

    @staticmethod
    def _describe(file: Path, path: str) -> SourceFile:
        stat = file.stat()
        return SourceFile(
            path=path,
            etag=f"{stat.st_size:x}-{stat.st_mtime_ns:x}",
            size_bytes=stat.st_size,
            arrived_at=datetime.fromtimestamp(stat.st_mtime, UTC),
        )
