"""JSON caption files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pyarrow as pa

from capsfusion_tasks.caption_files.json_rows import json_rows
from capsfusion_tasks.caption_files.row_file import RowFile


class JsonFile(RowFile):
    """A JSON file. Rows stay Python objects, so that values which are only copied to the output do not change.

    A conversion to Arrow would change some values.
    """

    def check(self) -> None:
        next(self.rows(), None)

    def _read(self) -> Iterator[tuple[Any, int]]:
        return json_rows(self.source)

    @cached_property
    def names(self) -> list[str]:
        # For a file without rows, return the columns that rows must have, so that the output file has these columns.
        return list(dict.fromkeys(name for row in self.rows() for name in row)) or self.text_columns

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
        return pa.schema(fields.values() or [pa.field(name, pa.string()) for name in self.text_columns])
