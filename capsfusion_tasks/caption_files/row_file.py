"""Caption files that are read row by row: JSON, CSV and TSV."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa

from capsfusion_tasks.caption_files.base import GROUP_BYTES, GROUP_ROWS, CaptionFile, MissingColumns
from capsfusion_tasks.errors import InputError

USE_JSONL = "choose a name that ends in .jsonl for the output"
_SURROGATES = re.compile("[\ud800-\udfff]+")


class RowFile(CaptionFile):
    """Reads rows as dicts and builds Arrow tables from them."""

    @abstractmethod
    def _read(self) -> Iterator[tuple[Any, int]]:
        """All rows, unchecked, each with its length in characters."""

    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        names = self.text_columns
        texts = ([_text(row[name]) for name in names] for row in self.rows())
        while batch := list(islice(texts, batch_rows)):
            arrays = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
            yield pa.Table.from_arrays(arrays, names=names)

    def rows(self) -> Iterator[dict[str, Any]]:
        return (row for row, _ in self._checked())

    def tables(self) -> Iterator[pa.Table]:
        for first, rows in self._batches():
            arrays = [self._array(first, rows, field.name, field.type) for field in self.schema]
            yield pa.Table.from_arrays(arrays, schema=self.schema)

    def _checked(self) -> Iterator[tuple[dict[str, Any], int]]:
        file = str(self.source)  # convert the path only once, because this takes longer than checking a row
        for number, (row, length) in enumerate(self._read(), start=1):
            self._check_row(f"{file}, row {number}", row, first=number == 1)
            yield row, length

    def _check_row(self, where: str, row: Any, *, first: bool) -> None:
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, got {row!r:.60}")
        try:
            self._check_names(where, row)
        except MissingColumns as error:
            if first:  # perhaps no row has these columns: the caller's message says which options name the columns
                raise
            raise InputError(f"{error}: write null where a row has no value") from error
        for name in self.columns:
            if not isinstance(row[name], str | None):
                raise InputError(f"{where}: {name} must be text, but is {row[name]!r:.60}")

    def _batches(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yield (number of the first row, rows), with at most ``GROUP_ROWS`` rows and about ``GROUP_BYTES`` bytes."""
        first, held = 1, 0
        rows: list[dict[str, Any]] = []
        for row, length in self._checked():
            rows.append(row)
            held += length
            if len(rows) >= GROUP_ROWS or held >= GROUP_BYTES:
                yield first, rows
                first, rows, held = first + len(rows), [], 0
        if rows:
            yield first, rows

    def _array(self, first: int, rows: list[dict[str, Any]], name: str, type_: pa.DataType | None = None) -> pa.Array:
        with self._fitting(first, rows, name):
            values = [row.get(name) for row in rows]
            return pa.array([_text(value) for value in values] if name in self.columns else values, type_)

    @contextmanager
    def _fitting(self, first: int, rows: list[dict[str, Any]], name: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, RecursionError) as error:
            where = f"{self.source}, rows {first} to {first + len(rows) - 1}"
            raise InputError(f"{where}: {name!r} cannot become a column of Parquet: {error}; {USE_JSONL}") from error


def _text(value: Any) -> str | None:
    return None if value is None else without_surrogates(value if isinstance(value, str) else str(value))


def without_surrogates(text: str) -> str:
    """``text`` with a space in place of each run of lone surrogates, which JSON can contain, but UTF-8 cannot."""
    return text if text.isascii() else _SURROGATES.sub(" ", text)
