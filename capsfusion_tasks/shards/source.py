"""The interface of a source of shards, such as a folder, an S3 bucket or a web server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from capsfusion_tasks.schemas import Shard


@dataclass(frozen=True)
class SourceFile:
    """A file in a source. ``path`` is relative to the source. ``etag`` changes when the content changes."""

    path: str
    etag: str
    size_bytes: int
    arrived_at: datetime
    revision: str = ""  # for sources with commits: the commit that has this content


@dataclass(frozen=True)
class Unreadable:
    """A file that a source cannot describe, or a folder that it cannot list. ``reason`` says why."""

    path: str
    reason: str
    arrived_at: datetime | None = None  # None: unknown, so the file may belong to any interval


class Source(Protocol):
    """A place where Parquet shards arrive. ``uri`` is stored with each shard, so it must not contain credentials."""

    uri: str

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        """All current files whose path ``wanted`` accepts. Also files, folders and links that cannot be read.

        Raises InputError if the source itself cannot be listed, NotReadyError if it does not answer.
        """
        ...

    def open(self, shard: Shard) -> AbstractContextManager[pa.NativeFile]:
        """The shard's bytes as a seekable file.

        Raises InputError if the shard is gone or its etag has changed, NotReadyError if the source does not answer.
        """
        ...
