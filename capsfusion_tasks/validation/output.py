"""Verdicts beside all other columns of the judged file: Parquet, JSON, JSON lines or CSV, by the ending of the name."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.storage import Storage
from capsfusion_tasks.validation.validate import JUDGED

FORMATS = (".parquet", ".jsonl", ".json", ".csv")

Verdict = tuple[Any, ...]  # a value for each column of ``JUDGED``


def check_output(path: Path, source: Path, formats: tuple[str, ...], *, overwrite: bool) -> None:
    """Raise InputError where ``path`` lacks an ending of ``formats``, is ``source``, or exists and must stay."""
    if path.suffix not in formats:
        raise InputError(f"cannot write {path}: its name must end in {' or '.join(formats)}")
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"cannot write to {path}: it is the file that is judged; choose another name")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.absolute().parent}")


def write_verdicts(target: Path, source: CaptionFile, verdicts: Iterable[Verdict]) -> None:
    """Write all columns of ``source`` in their order, then those of ``JUDGED``, whole or not at all.

    Columns of the source with a name of ``JUDGED`` are left out: they are verdicts of an earlier time. ``verdicts`` has
    one for each row.
    """
    storage = Storage(str(target.absolute().parent))
    if target.suffix == ".parquet":
        # A JSON file without rows names no columns.
        found = source.schema if source.schema.names else pa.schema([(name, pa.string()) for name in source.columns])
        kept = pa.schema([field for field in found if field.name not in JUDGED.names], found.metadata)
        schema = pa.schema([*kept, *JUDGED], kept.metadata)
        storage.write_tables(target.name, schema, _tables(source, kept.names, verdicts))
        return
    rows = _rows(source, verdicts)
    with storage.publish(target.name) as stream:
        if target.suffix == ".csv":
            names = [name for name in source.schema.names or source.columns if name not in JUDGED.names]
            _write_csv(stream, [*names, *JUDGED.names], rows)
        elif target.suffix == ".jsonl":
            stream.writelines(_dumps(row) + b"\n" for row in rows)
        else:
            stream.write(b"[")
            stream.writelines((b",\n" if number else b"\n") + _dumps(row) for number, row in enumerate(rows))
            stream.write(b"\n]\n")


def _tables(source: CaptionFile, kept: list[str], verdicts: Iterable[Verdict]) -> Iterator[pa.Table]:
    left = iter(verdicts)
    for table in source.tables():
        columns = list(zip(*islice(left, table.num_rows), strict=True)) or [()] * len(JUDGED)
        table = table.select(kept)
        for field, values in zip(JUDGED, columns, strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        yield table


def _rows(source: CaptionFile, verdicts: Iterable[Verdict]) -> Iterator[dict[str, Any]]:
    for row, verdict in zip(source.rows(), verdicts, strict=True):
        kept = {name: value for name, value in row.items() if name not in JUDGED.names}
        yield {**kept, **dict(zip(JUDGED.names, verdict, strict=True))}


def _write_csv(stream: BinaryIO, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """Lists and structs as JSON, null as an empty field."""
    text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="", write_through=True)
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    text.detach()


def _cell(value: Any) -> Any:
    return _dumps(value).decode() if isinstance(value, (list, dict)) else value


def _dumps(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False).encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can carry it
        return json.dumps(value, default=str, allow_nan=False).encode()
    except ValueError:  # JSON has no NaN and no infinity
        return _dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list) else value
