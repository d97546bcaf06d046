"""Query results and captions on a terminal or in a pipe."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "csv", "json", "parquet"]


def cell(value: Any) -> Text:
    """A value as it may stand on a terminal: a caption can hold escape sequences, and none of them gets through."""
    text = "" if value is None else str(value)
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def print_rows(rows: pa.Table, output_format: Format) -> None:
    """``rows`` to standard output; json is one object a line."""
    if output_format == "table":
        table = Table()
        for name in rows.column_names:
            table.add_column(cell(name))
        for values in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            table.add_row(*(cell(value) for value in values))
        Console().print(table)
    elif output_format == "csv":
        pa.csv.write_csv(_flat(rows), sys.stdout.buffer)
    elif output_format == "parquet":
        pa.parquet.write_table(rows, sys.stdout.buffer)
    else:
        for row in rows.to_pylist():
            print(json.dumps(row, ensure_ascii=False, default=str))


def _flat(rows: pa.Table) -> pa.Table:
    """Lists as JSON text: CSV has no other place for them."""
    columns = [
        pa.array([None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in column.to_pylist()])
        if pa.types.is_nested(column.type)
        else column
        for column in rows.columns
    ]
    return pa.table(columns, names=rows.column_names)
