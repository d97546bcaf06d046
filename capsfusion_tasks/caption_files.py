"""Caption files that users bring, read and written with all they carry: .json (a list), .jsonl and .parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.storage import Storage

FORMATS = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class CaptionFile:
    """``captions``: the columns that were asked for, as text, null where a row has none.

    ``rows`` are the parsed objects of a JSON file (Arrow would change what only passes through), ``table`` is a Parquet
    file's own table; one of the two is there.
    """

    captions: pa.Table
    rows: list[dict[str, Any]] | None
    table: pa.Table | None


def check_format(path: Path, *, write: bool = False) -> None:
    if path.suffix not in FORMATS:
        raise InputError(
            f"cannot {'write' if write else 'read'} {path}: its name must end in one of {', '.join(FORMATS)}"
        )


def read_caption_file(source: Path, columns: list[str]) -> CaptionFile:
    """Read ``source``. Raises InputError naming the file, the row and what was expected."""
    check_format(source)
    if not source.is_file():
        raise InputError(f"no file {source}")
    if source.suffix == ".parquet":
        return _read_parquet(source, columns)
    rows = list(_json_rows(source))
    for number, row in enumerate(rows, start=1):
        _require_columns(f"{source}, row {number}", list(row), columns)
        for name in columns:
            if not isinstance(row[name], str | None):
                raise InputError(f"{source}, row {number}: {name} must be text, it is {row[name]!r:.60}")
    captions = pa.table({name: pa.array([_valid(row[name]) for row in rows], pa.string()) for name in columns})
    return CaptionFile(captions, rows, None)


def write_caption_file(target: Path, source: CaptionFile, name: str, values: list[str | None]) -> None:
    """Write ``source``'s rows to ``target``, whole or not at all, with the column ``name`` added."""
    with Storage(str(target.absolute().parent)).publish(target.name) as stream:
        if target.suffix == ".parquet":
            table = source.table if source.table is not None else pa.Table.from_pylist(source.rows)
            pq.write_table(table.append_column(name, pa.array(values, pa.string())), stream)
            return
        rows = source.rows if source.rows is not None else _python_rows(source.table)
        lines = (_dumps({**row, name: value}) for row, value in zip(rows, values, strict=True))
        if target.suffix == ".jsonl":
            stream.writelines(line + b"\n" for line in lines)
        else:
            stream.write(b"[\n" + b",\n".join(lines) + b"\n]\n")


def _read_parquet(source: Path, columns: list[str]) -> CaptionFile:
    try:
        table = pq.read_table(source, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source} cannot be read as Parquet: {error}") from error
    _require_columns(source, table.column_names, columns)
    captions = {}
    for name in columns:
        try:
            captions[name] = table[name].cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{source}: column {name} must be text, it is {table[name].type}") from error
    return CaptionFile(pa.table(captions), None, table)


def _json_rows(source: Path) -> Iterator[dict[str, Any]]:
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8: {error}") from error
    if source.suffix == ".json":
        values = _parse(text, str(source))
    else:
        # Not splitlines(): it also splits at U+2028, which may stand in a JSON string.
        lines = enumerate(text.split("\n"), start=1)
        values = [_parse(line, f"{source}, line {number}") for number, line in lines if line.strip()]
    if not isinstance(values, list):
        raise InputError(f"{source} holds one {type(values).__name__}; expected a list of objects")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(f"{source}, row {number}: expected an object, got {value!r:.60}")
        yield value


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from error


def _require_columns(where: Path | str, names: list[str], columns: list[str]) -> None:
    if missing := [name for name in columns if name not in names]:
        raise InputError(f"{where} has no {' and no '.join(missing)}; it has {', '.join(names) or 'no columns'}")


def _python_rows(table: pa.Table | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist() if table is not None else []
    return rows


def _valid(text: str | None) -> str | None:
    """Without lone surrogates, which JSON can carry and UTF-8 cannot."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def _dumps(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # a lone surrogate: only its escape can carry it
        return json.dumps(row, default=str).encode()
