"""Finds the format of a caption file from the file's name. Recognises gzip from the content."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from capsfusion_tasks.errors import InputError, NotReadyError

Kind = Literal["json", "jsonl", "csv", "tsv", "parquet"]
_KINDS: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
NAMES = ".json, .jsonl, .ndjson, .csv, .tsv (each also with .gz) or .parquet"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Format:
    """The format of a caption file. ``compressed``: whether gzip compresses the file."""

    kind: Kind
    compressed: bool


def format_of(path: Path, *, write: bool = False) -> Format:
    """The format that belongs to the name of ``path``. Raises InputError for an unknown ending."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    kind = _KINDS.get(Path(plain).suffix)
    if kind is None or (kind == "parquet" and plain != name):
        raise InputError(f"cannot {'write' if write else 'read'} {path}: its name must end in {NAMES}")
    return Format(kind, compressed=plain != name)


def has_format(path: Path) -> bool:
    """Whether ``format_of`` accepts the name of ``path``."""
    try:
        format_of(path)
    except InputError:
        return False
    return True


@contextmanager
def reading(source: Path) -> Iterator[BinaryIO]:
    """Open a text file and yield its bytes. Decompresses gzip, even if the file's name does not end in ``.gz``.

    Raises InputError if the file is missing, if this process has no right to read it, or if it cannot be decompressed.
    Raises NotReadyError if the disk fails.
    """
    try:
        with source.open("rb") as file:
            packed = file.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{source} cannot be decompressed ({error}): the file is damaged or incomplete, so replace it"
        ) from error
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"cannot read {source}: {error.strerror}; give a file that this user may read") from error
    except OSError as error:
        raise NotReadyError(f"{source} cannot be read at the moment ({error}): try again") from error
