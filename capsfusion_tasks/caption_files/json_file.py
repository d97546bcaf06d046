"""JSON caption files: a list (.json), or an object on each line (.jsonl)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import Any

import pyarrow as pa

from capsfusion_tasks.caption_files.base import GROUP_ROWS, CaptionFile
from capsfusion_tasks.caption_files.json_rows import json_rows
from capsfusion_tasks.errors import InputError

USE_JSONL = "choose a name that ends in .jsonl for the output"


class JsonFile(CaptionFile):
    """From JSON to JSON its rows stay the parsed objects: Arrow would change what only passes through."""

    def check(self) -> None:
        next(self.rows(), None)

    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        texts = ([_valid(row[name]) for name in self.columns] for row in self.rows())
        while batch := list(islice(texts, batch_rows)):
            arrays = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            yield pa.Table.from_arrays(arrays, names=self.columns)

    def rows(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(json_rows(self.source), start=1):
            where = f"{self.source}, row {number}"
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected an object, got {row!r:.60}")
            self._check_names(where, row)
            for name in self.columns:
                if not isinstance(row[name], str | None):
                    raise InputError(f"{where}: {name} must be text, it is {row[name]!r:.60}")
            yield row

    def tables(self) -> Iterator[pa.Table]:
        for first, rows in self._batches():
            arrays = [self._array(first, rows, field.name, field.type) for field in self.schema]
            yield pa.Table.from_arrays(arrays, schema=self.schema)

    @cached_property
    def schema(self) -> pa.Schema:
        fields: dict[str, pa.Field] = {}
        for first, rows in self._batches():
            for name in dict.fromkeys(name for row in rows for name in row):
                array = self._array(first, rows, name)
                with self._fitting(first, rows, name):
                    found = [fields.get(name, pa.field(name, pa.null())), pa.field(name, array.type)]
                    schemas = [pa.schema([field]) for field in found]
                    fields[name] = pa.unify_schemas(schemas, promote_options="permissive").field(0)
        return pa.schema(fields.values())

    def _batches(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The rows, and the number of the first (from 1)."""
        source, first = self.rows(), 1
        while rows := list(islice(source, GROUP_ROWS)):
            yield first, rows
            first += len(rows)

    def _array(self, first: int, rows: list[dict[str, Any]], name: str, type_: pa.DataType | None = None) -> pa.Array:
        with self._fitting(first, rows, name):
            return pa.array([_valid(row.get(name)) for row in rows], type_)

    @contextmanager
    def _fitting(self, first: int, rows: list[dict[str, Any]], name: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError) as error:
            where = f"{self.source}, rows {first} to {first + len(rows) - 1}"
            raise InputError(f"{where}: {name!r} cannot become a column of Parquet: {error}; {USE_JSONL}") from error


def _valid(value: Any) -> Any:
    """``value`` without lone surrogates, which JSON can carry and UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    return value
