"""Shards in a folder: on a disk, or on a file system that the workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.source import SourceFile


class LocalSource:
    """Files at any depth below a folder. A file arrives when it was last modified."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).expanduser().absolute()
        self.uri = str(self._folder)

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
        if not self._folder.is_dir():
            raise InputError(f"no folder {self.uri}: create it, or name the folder in which shards arrive")
        for file in sorted(self._folder.rglob("*")):
            path = file.relative_to(self._folder).as_posix()
            if wanted(path) and file.is_file():
                yield self._describe(file, path)

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        file = self._folder / shard.path
        if not file.is_file():
            raise InputError(
                f"{file} is gone: put it back with its old time, or run again over the interval it returns in"
            )
        if self._describe(file, shard.path).etag != shard.etag:
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
