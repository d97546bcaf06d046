"""The interface of a source of shards."""

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
    """A file in a source. ``path`` is relative to it; ``etag`` changes whenever the content does."""

    path: str
    etag: str
    size_bytes: int
    arrived_at: datetime
    revision: str = ""  # the commit that has the content, for sources with commits


@dataclass(frozen=True)
class Unreadable:
    """A file that a source cannot describe, or a folder that it cannot list. ``reason`` says why."""

    path: str
    reason: str
    arrived_at: datetime | None = None  # None: not known, so it may belong to any interval


class Source(Protocol):
    """A place where Parquet shards arrive. ``uri`` is part of a shard's identity, so it holds no credentials."""

    uri: str

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        """All current files whose path is ``wanted``, and files and folders that cannot be read.

        Raises InputError if the source itself cannot be listed, NotReadyError if it does not answer.
        """
        ...

    def open(self, shard: Shard) -> AbstractContextManager[pa.NativeFile]:
        """The shard's bytes, seekable.

        Raises InputError if it is gone or no longer what its etag says, NotReadyError if the source does not answer.
        """
        ...
