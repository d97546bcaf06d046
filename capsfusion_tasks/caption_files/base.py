"""What a caption file can do, whatever its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from capsfusion_tasks.errors import InputError

GROUP_ROWS = 16_384  # of a Parquet file that is written: as many rows of a file are in memory at a time


@dataclass(frozen=True)
class CaptionFile(ABC):
    """``columns`` must be there and hold text or null, ``adds`` must not: ``write_caption_file`` adds it.

    All methods raise InputError naming the file, the rows and what was expected.
    """

    source: Path
    columns: list[str]
    adds: str | None

    @abstractmethod
    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        """``columns`` as strings, in tables of ``batch_rows`` rows; the last may be shorter."""

    @abstractmethod
    def rows(self) -> Iterator[dict[str, Any]]:
        """All that each row holds, as Python values."""

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """All that the rows hold, in tables of ``schema`` with ``GROUP_ROWS`` rows at most."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The Arrow schema of all rows. For a JSON file, it takes a pass over the file to find it."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for what is wrong and can be known before the file is read to its end."""

    def _check_names(self, where: Path | str, names: Collection[str]) -> None:
        if missing := [name for name in self.columns if name not in names]:
            raise InputError(f"{where} has no {' and no '.join(missing)}; it has {', '.join(names) or 'no columns'}")
        if self.adds in names:
            raise InputError(f"{where} has a column {self.adds} already, which would be overwritten: rename or drop it")
