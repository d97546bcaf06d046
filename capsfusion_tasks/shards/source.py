"""What a source of shards is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file in a source. ``path`` is relative to it; ``etag`` changes whenever the content does."""

    path: str
    etag: str
    size_bytes: int
    arrived_at: datetime


class Source(Protocol):
    """A place where Parquet shards arrive."""

    uri: str

    def files(self) -> Iterator[SourceFile]:
        """All shards there now. Raises InputError if the source itself cannot be listed."""
        ...

    def open(self, path: str, etag: str) -> AbstractContextManager[pa.NativeFile]:
        """The shard's bytes, seekable. Raises InputError if it is gone or no longer what ``etag`` says."""
        ...
