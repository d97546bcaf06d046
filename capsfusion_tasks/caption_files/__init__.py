"""Reads and writes users' caption files with all their columns: JSON, CSV, TSV and Parquet.

Files are streamed, so ten million rows need no more memory than ten thousand. Each pass reads the file from the start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.caption_files.csv_file import DELIMITERS, CsvFile
from capsfusion_tasks.caption_files.formats import format_of
from capsfusion_tasks.caption_files.json_file import JsonFile
from capsfusion_tasks.caption_files.parquet_file import ParquetFile
from capsfusion_tasks.caption_files.row_file import USE_JSONL
from capsfusion_tasks.caption_files.writing import encoded, publish_text, with_column
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.staging.storage import Storage


def open_caption_file(
    source: Path, columns: Iterable[str], *, adds: str | None = None, key: str | None = None
) -> CaptionFile:
    """Open a file, and check its format, columns and first row. All other rows are checked when they are read.

    ``columns``, ``adds``, ``key``: the attributes of ``CaptionFile`` with these names.
    """
    with _reachable(f"cannot read {source}"):
        if not source.exists():
            raise InputError(f"there is no file {source}: check the path")
    kind = format_of(source).kind
    with _reachable(f"cannot read {source}"):
        if not source.is_file():
            what = "a folder" if source.is_dir() else "a pipe or a device"
            raise InputError(f"{source} is {what}: give a regular file, because the input is read several times")
    of_kind = {"parquet": ParquetFile, **dict.fromkeys(DELIMITERS, CsvFile)}.get(kind, JsonFile)
    file = of_kind(source, list(dict.fromkeys(columns)), adds, key)
    file.check()
    return file


def check_target(target: Path, source: CaptionFile) -> int:
    """Raise InputError if the format of ``target`` cannot store the rows of ``source``. Return the number of rows.

    All rows are read and encoded once, so that problems are found before the captions are fused.
    """
    form, adds = format_of(target, write=True), str(source.adds)
    with source.unchanged():
        if form.kind == "parquet":
            _check_schema(target, source)
            return _write_nowhere(target, source)
        rows = 0

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal rows
            for row in source.rows():
                rows += 1
                yield {**row, adds: None}

        for _ in encoded(source, form, counted(), _names(source)):
            pass
        return rows


def _check_schema(target: Path, source: CaptionFile) -> None:
    with _as_parquet(target, source):
        empty = pa.BufferOutputStream()
        pq.ParquetWriter(empty, source.schema).close()
        # Read the schema back, because the writer accepts deeper nesting than the reader.
        pq.ParquetFile(pa.BufferReader(empty.getvalue())).close()


def _write_nowhere(target: Path, source: CaptionFile) -> int:
    nowhere, rows = pa.MockOutputStream(), 0
    with _as_parquet(target, source), pq.ParquetWriter(nowhere, source.schema, compression="none") as writer:
        for table in source.tables():
            writer.write_table(table)
            rows += table.num_rows
    return rows


@contextmanager
def _as_parquet(target: Path, source: CaptionFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.source} cannot be written as Parquet to {target}: {error}; {USE_JSONL}") from error


def check_writable(target: Path, *, overwrite: bool, but: Path) -> None:
    """Raise InputError if the file ``target`` cannot be created or replaced, or if it is the input file ``but``."""
    with _reachable(f"cannot write {target}"):
        if target.exists():
            if but.exists() and target.samefile(but):
                raise InputError(f"{target} is the input: choose another name for the output")
            if target.is_dir():
                raise InputError(f"cannot write {target}: it is a folder; choose another name for the output")
            if not overwrite:
                raise InputError(f"{target} exists already: choose another name, or add --overwrite")
        _check_folder(target.absolute().parent, target)


def check_writable_folder(target: Path) -> None:
    """Raise InputError if the folder ``target`` cannot be created, or files cannot be created in it."""
    with _reachable(f"cannot write {target}"):
        if target.is_dir():
            _check_folder(target.absolute(), target)
        else:
            check_writable(target, overwrite=False, but=target)


def _check_folder(folder: Path, target: Path) -> None:
    with _reachable(f"cannot write {target}"):
        if not folder.is_dir():
            raise InputError(f"cannot write {target}: there is no folder {folder}; create it, or choose another folder")
        # Try to create a file, as Storage.publish does. Nothing else shows whether this process may create files here.
        tempfile.NamedTemporaryFile(dir=folder, prefix=f".{target.name}.", suffix=".unpublished").close()


@contextmanager
def _reachable(failed: str) -> Iterator[None]:
    """Turns an OSError in the block, such as missing rights, into an InputError that begins with ``failed``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{failed}: {error.strerror}; choose another name or folder") from error


def write_caption_file(target: Path, source: CaptionFile, values: Iterable[str | None]) -> None:
    """Write the rows of ``source`` to ``target``, and write ``values`` to a new column named ``source.adds``.

    The file appears complete or not at all.

    Raises InputError if ``source`` changed since it was opened, or if ``check_target`` would raise InputError. Raises
    ValueError if the numbers of values and rows differ.
    """
    if source.adds is None:
        raise ValueError(f"{source.source} has no column to add: open_caption_file must get the argument adds")
    form, adds = format_of(target, write=True), source.adds
    if form.kind == "parquet":
        _check_schema(target, source)
        storage = Storage(str(target.absolute().parent))
        schema = source.schema.append(pa.field(adds, pa.string()))
        storage.write_tables(target.name, schema, _until_changed(source, with_column(source, values)))
        return
    rows = ({**row, adds: value} for row, value in zip(source.rows(), values, strict=True))
    publish_text(target, form, _until_changed(source, encoded(source, form, rows, _names(source))))


def _names(source: CaptionFile) -> Callable[[], list[str]]:
    return lambda: [*source.names, str(source.adds)]


_Piece = TypeVar("_Piece")


def _until_changed(source: CaptionFile, pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Yield ``pieces``. Raise InputError at the end if ``source`` has changed, so that no output file appears."""
    with source.unchanged():
        yield from pieces
