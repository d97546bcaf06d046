"""Writes the rows of a caption file with additional columns, in any format."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa

from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.caption_files.csv_file import DELIMITERS
from capsfusion_tasks.caption_files.formats import Format
from capsfusion_tasks.caption_files.row_file import USE_JSONL, without_surrogates
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.staging.storage import Storage


def publish_text(target: Path, form: Format, pieces: Iterable[bytes]) -> None:
    """Write ``pieces`` to ``target``, with gzip if ``form.compressed``. The file appears complete or not at all."""
    with Storage(str(target.absolute().parent)).publish(target.name) as stream:
        if form.compressed:  # leave name and time out of the gzip header, so that the same rows give the same bytes
            with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
                packed.writelines(pieces)
        else:
            stream.writelines(pieces)


def encoded(
    source: CaptionFile, form: Format, rows: Iterable[dict[str, Any]], names: Callable[[], Sequence[str]]
) -> Iterator[bytes]:
    """Encode ``rows`` of ``source`` as pieces of a text file in the format ``form``.

    ``names`` returns the columns of a CSV file. It is not called for JSON, because ``source.names`` would read the
    whole file. Raises InputError for a row that ``form`` cannot store.
    """
    try:
        if form.kind in DELIMITERS:
            yield from _csv(source, names(), rows, DELIMITERS[form.kind])
        elif form.kind == "jsonl":
            yield from (json_bytes(row) + b"\n" for row in rows)
        else:
            yield b"["
            yield from ((b",\n" if number else b"\n") + json_bytes(row) for number, row in enumerate(rows))
            yield b"\n]\n"
    except RecursionError as error:
        raise InputError(
            f"{source.source} has values that are nested too deeply to be written ({error}): drop or flatten them"
        ) from error


def with_column(source: CaptionFile, values: Iterable[str | None]) -> Iterator[pa.Table]:
    """Yield tables with the rows of ``source``, and with ``values`` as the column ``source.adds``, for Parquet files.

    Raises ValueError if the numbers of values and rows differ.
    """
    field, left = pa.field(source.adds, pa.string()), iter(values)
    for table in source.tables():
        yield table.append_column(field, pa.array(list(islice(left, table.num_rows)), field.type))
    for _ in left:
        raise ValueError(f"there are more values of {field.name} than rows")


def _csv(source: CaptionFile, names: Sequence[str], rows: Iterable[dict[str, Any]], delimiter: str) -> Iterator[bytes]:
    lines: list[str] = []
    # The csv module quotes fields with a lone \r only if its line terminator contains \r. So the terminator is \r\n
    # here. Each written line ends with \n instead, as in files of pandas.
    writer = csv.writer(_Lines(lines.append), delimiter=delimiter, lineterminator="\r\n")
    header = dict(zip(names, names, strict=True))
    for number, row in enumerate(chain([header], rows)):
        fields = {name: field_text(row.get(name)) for name in names}
        for name in source.columns:
            if name in fields:
                fields[name] = without_surrogates(fields[name])
        writer.writerow(fields.values())
        try:
            yield lines.pop().removesuffix("\r\n").encode() + b"\n"
        except UnicodeEncodeError as error:
            bad = next(name for name, field in fields.items() if without_surrogates(field) != field)
            where = f"row {number}: column {bad!r}" if number else f"header: the name {bad!r}"
            raise InputError(
                f"{source.source}, {where} has a lone surrogate, which UTF-8 cannot hold; {USE_JSONL}"
            ) from error


@dataclass(frozen=True)
class _Lines:
    write: Callable[[str], None]


def field_text(value: Any) -> str:
    """Convert a JSON value or bytes to a field of CSV.

    Text stays unchanged. Null, NaN and infinity become "". All other values become JSON.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, str):
        return value
    return _other(value) if isinstance(value, bytes | Decimal | UUID) else json_bytes(value).decode()


def json_bytes(row: Any) -> bytes:
    """``row`` as JSON in UTF-8. NaN and infinite numbers become null; bytes become base64."""
    try:
        text = _AS_IS.encode(row)
    except ValueError:
        text = _AS_IS.encode(_finite(row))
    try:
        return text.encode()
    except UnicodeEncodeError:  # UTF-8 cannot encode a lone surrogate, so write it as an escape
        return _ESCAPED.encode(_finite(row)).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _other(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"cannot write {type(value)} as JSON")


_AS_IS = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_other)
_ESCAPED = json.JSONEncoder(allow_nan=False, default=_other)
