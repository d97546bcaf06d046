"""Writes verdicts beside all other columns of the judged file. The ending of the file's name decides the format."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from capsfusion_tasks.caption_files import check_writable
from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.caption_files.csv_file import DELIMITERS
from capsfusion_tasks.caption_files.formats import Format, format_of
from capsfusion_tasks.caption_files.writing import field_text, json_bytes
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.validation.validate import JUDGED

Verdict = tuple[Any, ...]  # a value for each column of ``JUDGED``


def check_outputs(source: Path, out: Path | None, report: Path | None, *, overwrite: bool) -> None:
    """Raise InputError if an output has a wrong ending, is ``source``, or exists and must not be replaced."""
    if out:
        format_of(out, write=True)
        check_writable(out, overwrite=overwrite, but=source)
    if report:
        if report.suffix != ".html":
            raise InputError(f"cannot write the report to {report}: its name must end in .html")
        check_writable(report, overwrite=overwrite, but=source)


def write_verdicts(target: Path, source: CaptionFile, verdicts: Iterable[Verdict]) -> None:
    """Write all columns of ``source`` in their order, then those of ``JUDGED``.

    The file appears complete or not at all.

    Columns of the source with a name in ``JUDGED`` are left out, because they are older verdicts. ``verdicts`` has
    one for each row.
    """
    storage, form = Storage(str(target.absolute().parent)), format_of(target, write=True)
    if form.kind == "parquet":
        # A JSON file without rows names no columns.
        found = source.schema if source.schema.names else pa.schema([(name, pa.string()) for name in source.columns])
        kept = pa.schema([field for field in found if field.name not in JUDGED.names], found.metadata)
        schema = pa.schema([*kept, *JUDGED], kept.metadata)
        storage.write_tables(target.name, schema, _tables(source, kept.names, verdicts))
        return
    with storage.publish(target.name) as stream:
        pieces = _text(source, form, verdicts)
        if form.compressed:  # no file name and time in the gzip header, so that the same rows give the same bytes
            with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
                packed.writelines(pieces)
        else:
            stream.writelines(pieces)


def _tables(source: CaptionFile, kept: list[str], verdicts: Iterable[Verdict]) -> Iterator[pa.Table]:
    left = iter(verdicts)
    with source.unchanged():
        for table in source.tables():
            columns = list(zip(*islice(left, table.num_rows), strict=True)) or [()] * len(JUDGED)
            table = table.select(kept)
            for field, values in zip(JUDGED, columns, strict=True):
                table = table.append_column(field, pa.array(values, field.type))
            yield table


def _text(source: CaptionFile, form: Format, verdicts: Iterable[Verdict]) -> Iterator[bytes]:
    with source.unchanged():
        rows = _rows(source, verdicts)
        if form.kind in DELIMITERS:
            names = [name for name in source.names or source.columns if name not in JUDGED.names]
            yield from _csv([*names, *JUDGED.names], rows, DELIMITERS[form.kind])
        elif form.kind == "jsonl":
            yield from (json_bytes(row) + b"\n" for row in rows)
        else:
            yield b"["
            yield from ((b",\n" if number else b"\n") + json_bytes(row) for number, row in enumerate(rows))
            yield b"\n]\n"


def _rows(source: CaptionFile, verdicts: Iterable[Verdict]) -> Iterator[dict[str, Any]]:
    for row, verdict in zip(source.rows(), verdicts, strict=True):
        kept = {name: value for name, value in row.items() if name not in JUDGED.names}
        yield {**kept, **dict(zip(JUDGED.names, verdict, strict=True))}


def _csv(names: list[str], rows: Iterable[dict[str, Any]], delimiter: str) -> Iterator[bytes]:
    """Lists and structs as JSON, null as an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([field_text(row.get(name)) for name in names])
        yield _taken(text)
    yield _taken(text)


def _taken(text: io.StringIO) -> bytes:
    written = text.getvalue().encode("utf-8", "replace")
    text.seek(0)
    text.truncate()
    return written
