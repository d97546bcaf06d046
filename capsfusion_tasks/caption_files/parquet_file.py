"""Parquet caption files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.caption_files.base import GROUP_ROWS, CaptionFile
from capsfusion_tasks.errors import InputError


class ParquetFile(CaptionFile):
    """``schema`` has its own types and metadata."""

    def check(self) -> None:
        names = self.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{self.source} has more than one column {', '.join(twice)}: rename or drop all but one")
        self._check_names(self.source, names)
        for name in self.columns:
            self._strings(self.source, pa.array([], self.schema.field(name).type), name)

    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        # A dictionary that changes between row groups ends a batch early, so batches are joined and cut anew.
        held = pa.schema([(name, pa.string()) for name in self.columns]).empty_table()
        read = 0
        with self._reading() as file:
            for batch in file.iter_batches(batch_rows, columns=self.columns):
                where = f"{self.source}, rows {read + 1} to {read + batch.num_rows}"
                read += batch.num_rows
                arrays = [self._strings(where, batch[name], name) for name in self.columns]
                held = pa.concat_tables([held, pa.Table.from_arrays(arrays, names=self.columns)])
                while held.num_rows >= batch_rows:
                    yield held.slice(0, batch_rows)
                    held = held.slice(batch_rows)
        if held.num_rows:
            yield held

    def rows(self) -> Iterator[dict[str, Any]]:
        for table in self.tables():
            try:
                rows = table.to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"{self.source} has text that is not UTF-8: {error}") from error
            yield from rows

    def tables(self) -> Iterator[pa.Table]:
        with self._reading() as file:
            for batch in file.iter_batches(GROUP_ROWS):
                yield pa.Table.from_batches([batch])

    @cached_property
    def schema(self) -> pa.Schema:
        with self._reading() as file:
            return file.schema_arrow

    @contextmanager
    def _reading(self) -> Iterator[pq.ParquetFile]:
        try:
            # Else it reads whole row groups, ahead: 200 MB for a file of that size, where this takes 12.
            with pq.ParquetFile(self.source, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
            raise InputError(f"{self.source} cannot be read as Parquet: {error}") from error

    @staticmethod
    def _strings(where: Path | str, array: pa.Array, name: str) -> pa.Array:
        try:
            texts = array.cast(pa.string())
            texts.validate(full=True)  # that it is UTF-8
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{where}: column {name} must be text, it is {array.type}: {error}") from error
        return texts
