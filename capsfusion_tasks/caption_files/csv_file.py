"""CSV and TSV caption files. All their values are text."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import pyarrow as pa

from capsfusion_tasks.caption_files.formats import Kind, format_of, reading
from capsfusion_tasks.caption_files.row_file import RowFile
from capsfusion_tasks.errors import InputError

DELIMITERS: dict[Kind, str] = {"csv": ",", "tsv": "\t"}
_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"')
csv.field_size_limit(sys.maxsize)  # the csv module's default limit, 128 KB, is shorter than some captions


class CsvFile(RowFile):
    """A CSV or TSV file with a header. Fields are quoted as in files of Excel and pandas."""

    def check(self) -> None:
        self._check_names(f"the header of {self.source}", self.names)
        next(self.rows(), None)

    @cached_property
    def names(self) -> list[str]:
        self._refuse_json()
        with self._fields() as rows:
            names = self._next(rows, 0)
        if not names:
            problem = "is empty" if names is None else "begins with a blank line"
            raise InputError(f"{self.source} {problem}; its first line must be a header with the names of the columns")
        if len(names) == 1 and (found := [mark for mark in ";\t|," if mark in names[0]]):
            raise InputError(
                f"{self.source} separates its columns with {found[0]!r}, but the ending of its name requires"
                f" {self._delimiter!r}: rename a file with tabs to .tsv; save any other file with commas, as .csv"
            )
        if twice := sorted({name for name in names if names.count(name) > 1}):
            repeated = ", ".join(twice)
            raise InputError(
                f"{self.source} has these column names twice: {repeated}; rename or drop all but the first"
            )
        return names

    def _refuse_json(self) -> None:
        with reading(self.source) as stream:
            if _JSON.match(stream.read(100)):
                raise InputError(
                    f"{self.source} contains JSON, but the ending of its name requires columns with"
                    f" {self._delimiter!r} between them: rename it to .jsonl"
                )

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in self.names])

    def _read(self) -> Iterator[tuple[dict[str, str], int]]:
        with self._fields() as rows:
            self._next(rows, 0)
            number = 1
            while (fields := self._next(rows, number)) is not None:
                if not fields:  # a blank line
                    continue
                if len(fields) != len(self.names):
                    raise InputError(
                        f"{self.source}, row {number} has {len(fields)} fields, but the header has {len(self.names)}:"
                        " quote fields that contain the delimiter or a line break"
                    )
                yield dict(zip(self.names, fields, strict=True)), sum(map(len, fields))
                number += 1

    @contextmanager
    def _fields(self) -> Iterator[Iterator[list[str]]]:
        with reading(self.source) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
            yield csv.reader(text, delimiter=self._delimiter, strict=True)

    @property
    def _delimiter(self) -> str:
        return DELIMITERS[format_of(self.source).kind]

    def _next(self, rows: Iterator[list[str]], number: int) -> list[str] | None:
        where = f"{self.source}, {f'row {number}' if number else 'header'}"
        try:
            return next(rows, None)
        except UnicodeDecodeError as error:
            raise InputError(f"{where} or a later row is not UTF-8: {error.reason}; save the file as UTF-8") from error
        except csv.Error as error:
            raise InputError(f"{where} is not valid: {error}; write each quote inside a quoted field twice") from error
