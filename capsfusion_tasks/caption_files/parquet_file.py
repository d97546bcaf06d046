"""Parquet caption files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.caption_files.base import GROUP_BYTES, GROUP_ROWS, CaptionFile
from capsfusion_tasks.caption_files.json_types import binary_leaves, is_bytes, is_text, json_values, leaf_types
from capsfusion_tasks.errors import InputError

_LFS_POINTER = b"version https://git-lfs"
_POINTED = "it is a Git LFS pointer, not the file itself; run git lfs pull in its folder"


class ParquetFile(CaptionFile):
    """A Parquet file. ``schema`` is the schema that the file contains, including metadata."""

    def check(self) -> None:
        names = self.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            repeated = ", ".join(twice)
            raise InputError(
                f"{self.source} has these column names twice: {repeated}; rename or drop all but the first"
            )
        self._check_names(self.source, names)
        for name in self.columns:
            kind = self.schema.field(name).type
            if not is_text(kind):
                raise InputError(
                    f"{self.source}: column {name} must be text, but is {kind}: name a column of captions, or convert"
                    " this one to text"
                )
        for name in self.text_columns:
            self._strings(self.source, pa.array([], self.schema.field(name).type), name)

    def captions(self, batch_rows: int) -> Iterator[pa.Table]:
        # Arrow ends a batch early if the values of a dictionary column differ between row groups. So join the batches,
        # and cut them into tables of ``batch_rows`` rows.
        names = self.text_columns
        held = pa.schema([(name, pa.string()) for name in names]).empty_table()
        for where, table in self._read(batch_rows, names):
            arrays = [self._strings(where, table[name], name) for name in names]
            held = pa.concat_tables([held, pa.Table.from_arrays(arrays, names=names)])
            while held.num_rows >= batch_rows:
                yield held.slice(0, batch_rows)
                held = held.slice(batch_rows)
        if held.num_rows:
            yield held

    def rows(self) -> Iterator[dict[str, Any]]:
        names = self.names
        for where, table in self._checked():
            columns = [json_values(table[name], name, where, self._binary) for name in names]
            yield from (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))

    def tables(self) -> Iterator[pa.Table]:
        return (table for _, table in self._checked())

    @cached_property
    def schema(self) -> pa.Schema:
        with self._reading() as file:
            return file.schema_arrow

    @property
    def names(self) -> list[str]:
        names: list[str] = self.schema.names
        return names

    @cached_property
    def _binary(self) -> frozenset[str]:
        """Paths of binary leaves (innermost columns) that stay bytes, because at least one value is not UTF-8."""
        columns = [field.name for field in self.schema if any(map(is_bytes, leaf_types(field.type)))]
        if not columns:
            return frozenset()
        return frozenset().union(*(binary_leaves(table) for _, table in self._read(GROUP_ROWS, columns)))

    def _checked(self) -> Iterator[tuple[str, pa.Table]]:
        for where, table in self._read(GROUP_ROWS):
            for name in self.text_columns:  # find captions that are not UTF-8 before the first row is fused
                self._strings(where, table[name], name)
            yield where, table

    def _read(self, most_rows: int, columns: list[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Yield (where, table). A table has at most ``most_rows`` rows and about ``GROUP_BYTES`` bytes.

        ``where`` names the table's rows in messages, for example "pairs.parquet, rows 1 to 500".
        """
        read = 0
        with self._reading() as file:
            at_once = _rows_at_once(file.metadata, most_rows)
            while True:
                try:
                    for batch in _skipping(read, file.iter_batches(at_once, columns=columns)):
                        where = f"{self.source}, rows {read + 1} to {read + batch.num_rows}"
                        read += batch.num_rows
                        yield where, pa.Table.from_batches([batch])
                    return
                except pa.ArrowNotImplementedError:  # over 2 GB, because these rows are long: read fewer rows
                    if at_once == 1:
                        raise
                    at_once = max(1, at_once // 8)

    @contextmanager
    def _reading(self) -> Iterator[pq.ParquetFile]:
        try:
            # By default, Arrow reads whole row groups in advance: a file of 200 MB takes 200 MB of memory, but only
            # 12 MB with these options. By default, Arrow also reads INT96 as nanoseconds, which cannot represent years
            # after 2262, although files from Spark may contain the year 9999.
            with pq.ParquetFile(
                self.source, pre_buffer=False, buffer_size=1 << 20, coerce_int96_timestamp_unit="us"
            ) as file:
                yield file
        # pyarrow raises UnicodeDecodeError for a column name that is not UTF-8.
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            said = _POINTED if self._is_pointer() else str(error)
            raise InputError(f"{self.source} cannot be read as Parquet: {said}") from error

    def _is_pointer(self) -> bool:
        try:
            with self.source.open("rb") as file:
                return file.read(len(_LFS_POINTER)) == _LFS_POINTER
        except OSError:
            return False

    @staticmethod
    def _strings(where: Path | str, array: pa.Array | pa.ChunkedArray, name: str) -> pa.Array | pa.ChunkedArray:
        try:
            texts = array.cast(pa.string())
            texts.validate(full=True)  # checks that the text is UTF-8
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{where}: column {name} must be text, but is {array.type}: {error}") from error
        return texts


def _skipping(rows: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows < batch.num_rows:
            yield batch.slice(rows)
        rows = max(0, rows - batch.num_rows)


def _rows_at_once(metadata: pq.FileMetaData, most_rows: int) -> int:
    """Number of rows to read at a time. Fewer if rows are long: Arrow reads at most 2 GB of a nested column at once."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(most_rows, GROUP_BYTES // max(1, longest)))
