"""Caption files that users bring, with all they carry: .json (a list), .jsonl and .parquet.

They are streamed: each pass reads the file anew, and ten million rows need no more memory than ten thousand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.caption_files.json_file import USE_JSONL, JsonFile
from capsfusion_tasks.caption_files.parquet_file import ParquetFile
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.staging.storage import Storage

FORMATS = (".json", ".jsonl", ".parquet")


def check_format(path: Path, *, write: bool = False) -> None:
    if path.suffix not in FORMATS:
        raise InputError(
            f"cannot {'write' if write else 'read'} {path}: its name must end in one of {', '.join(FORMATS)}"
        )


def open_caption_file(source: Path, columns: Iterable[str], *, adds: str | None = None) -> CaptionFile:
    """Check ``source``'s format, a Parquet file's columns and a JSON file's first row; passes check every row."""
    check_format(source)
    if not source.is_file():
        raise InputError(f"no file {source}")
    kind = ParquetFile if source.suffix == ".parquet" else JsonFile
    file = kind(source, list(dict.fromkeys(columns)), adds)
    file.check()
    return file


def check_target(target: Path, source: CaptionFile) -> None:
    """Raise InputError where a file of ``target``'s format cannot hold ``source``'s rows.

    From JSON to Parquet it reads all rows: a caller that works for hours before it writes can know first.
    """
    check_format(target, write=True)
    if target.suffix == ".parquet":
        try:
            empty = pa.BufferOutputStream()
            pq.ParquetWriter(empty, source.schema).close()
            pq.ParquetFile(pa.BufferReader(empty.getvalue())).close()  # deeper nesting is written than is ever read
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{source.source} cannot become {target}: {error}; {USE_JSONL}") from error


def write_caption_file(target: Path, source: CaptionFile, values: Iterable[str | None]) -> None:
    """Write ``source``'s rows to ``target``, whole or not at all, with ``values`` in a new column ``source.adds``.

    Raises ValueError where there are not as many values as rows.
    """
    if source.adds is None:
        raise ValueError(f"{source.source} was opened without a column to add")
    check_target(target, source)
    storage = Storage(str(target.absolute().parent))
    if target.suffix == ".parquet":
        field = pa.field(source.adds, pa.string())
        storage.write_tables(target.name, source.schema.append(field), _with_column(source.tables(), field, values))
        return
    lines = (_dumps({**row, source.adds: value}) for row, value in zip(source.rows(), values, strict=True))
    with storage.publish(target.name) as stream:
        if target.suffix == ".jsonl":
            stream.writelines(line + b"\n" for line in lines)
            return
        stream.write(b"[")
        stream.writelines((b",\n" if number else b"\n") + line for number, line in enumerate(lines))
        stream.write(b"\n]\n")


def _with_column(tables: Iterable[pa.Table], field: pa.Field, values: Iterable[str | None]) -> Iterator[pa.Table]:
    left = iter(values)
    for table in tables:
        yield table.append_column(field, pa.array(list(islice(left, table.num_rows)), field.type))
    for _ in left:
        raise ValueError(f"there are more values of {field.name} than rows")


def _dumps(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can carry it
        return json.dumps(row, default=str).encode()
