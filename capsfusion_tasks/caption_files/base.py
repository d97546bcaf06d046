"""The interface of caption files of all formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from capsfusion_tasks.errors import InputError

GROUP_ROWS = 16_384  # maximum rows in memory at a time, and maximum rows of a written row group
GROUP_BYTES = 256 << 20  # the same limits in bytes, which rows with images reach before GROUP_ROWS


class MissingColumns(InputError):
    """A file or one of its rows lacks columns. ``missing``: their names."""

    def __init__(self, message: str, missing: Collection[str]) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class FileVersion:
    """Values that show whether a file has changed. They differ after somebody wrote to the file or replaced it."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileVersion | None:
        """The file's version. None if there is no such file."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class CaptionFile(ABC):
    """A file of rows that can be read several times.

    - ``columns``: names of columns that must be in the file and contain text or null.
    - ``adds``: name of the column that ``write_caption_file`` adds, so it is not in the file yet. Or None.
    - ``key``: name of a column in the file whose values identify rows in messages, or None.

    All methods can raise InputError. The message names the file, the rows, and the expected value.
    """

    source: Path
    columns: list[str]
    adds: str | None
    key: str | None = None
    version: FileVersion | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", FileVersion.of(self.source))

    @abstractmethod
    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        """Read ``text_columns`` as strings, in tables of ``batch_rows`` rows. The last table may be shorter."""

    @abstractmethod
    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows with all columns as JSON values. Bytes that are not UTF-8 stay bytes."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """All rows with all columns, in tables with ``schema`` and at most ``GROUP_ROWS`` rows each."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The Arrow schema of all rows. Reads the whole file, unless the file is Parquet."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The names of all columns. For JSON, this reads the whole file."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for errors at the start of the file or, for Parquet, in its footer."""

    @cached_property
    def text_columns(self) -> list[str]:
        """``columns`` and ``key``, without duplicates."""
        return list(dict.fromkeys([*self.columns, *([] if self.key is None else [self.key])]))

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Raise InputError if the file changed between ``open_caption_file`` and the end of the block."""
        try:
            yield
        except Exception as error:  # a file that changes while it is read can cause any error
            self._require_unchanged(error)
            raise
        self._require_unchanged(None)

    def _require_unchanged(self, cause: Exception | None) -> None:
        now = FileVersion.of(self.source)
        if now != self.version:
            sizes = [f"{version.size:,} bytes" if version else "no file" for version in (self.version, now)]
            raise InputError(
                f"{self.source} changed while it was read ({sizes[0]} before, {sizes[1]} now). Run the same command"
                " again when nothing writes to the file: `capsfusion fuse` then fuses only rows that changed"
            ) from cause

    def _check_names(self, where: Path | str, names: Collection[str]) -> None:
        if missing := [name for name in self.text_columns if name not in names]:
            has = ", ".join(name if name == name.strip() else repr(name) for name in names)
            raise MissingColumns(f"{where} has no {' and no '.join(missing)}; it has {has or 'no columns'}", missing)
        if self.adds in names:
            raise InputError(
                f"{where} already has a column {self.adds}; rename or drop it, because it would be overwritten"
            )
