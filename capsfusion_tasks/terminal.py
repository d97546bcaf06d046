"""Query results and captions on a terminal or in a pipe."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capsfusion_tasks.caption_files.json_types import binary_leaves, is_bytes, json_values
from capsfusion_tasks.caption_files.writing import field_text, json_bytes
from capsfusion_tasks.errors import InputError, printable

if TYPE_CHECKING:
    from capsfusion_tasks.validation.tally import Tally

Format = Literal["table", "csv", "json", "parquet"]


def cell(value: Any) -> Text:
    """A value as it may stand on a terminal: a caption can hold escape sequences, and none of them gets through."""
    text = "" if value is None else str(value)
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def print_rows(rows: pa.Table, output_format: Format) -> None:
    """``rows`` to standard output; json is one object a line, with NaN and infinite numbers as null.

    What a pipe gets is exact. A terminal gets nothing that would command it: in JSON such characters are escaped
    anywhere, which loses nothing, in CSV they are replaced there.
    """
    if output_format == "table":
        table = Table()
        for name in rows.column_names:
            table.add_column(cell(name))
        for values in zip(*_json_columns(rows), strict=True):
            table.add_row(*(cell(value if isinstance(value, float) else field_text(value)) for value in values))
        Console().print(table)
    elif output_format == "csv":
        if sys.stdout.isatty():
            buffer = pa.BufferOutputStream()
            pa.csv.write_csv(_flat(rows), buffer)
            for line in buffer.getvalue().to_pybytes().decode().split("\n"):
                print(cell(line))
        else:
            pa.csv.write_csv(_flat(rows), sys.stdout.buffer)
    elif output_format == "parquet":
        if sys.stdout.isatty():
            raise InputError("Parquet is nothing for a terminal: send it to a file, with > rows.parquet")
        pa.parquet.write_table(rows, sys.stdout.buffer)
    else:
        for values in zip(*_json_columns(rows), strict=True):
            print(_escaped(json_bytes(dict(zip(rows.column_names, values, strict=True))).decode()))


def _json_columns(rows: pa.Table) -> list[list[Any]]:
    binary = binary_leaves(rows)
    return [json_values(rows[n], name, "the result", binary) for n, name in enumerate(rows.column_names)]


def print_text(text: str) -> None:
    """A report to standard output, on lines as it has them."""
    Console().print(printable(text), highlight=False, markup=False)


def _escaped(text: str) -> str:
    """JSON without characters that cannot be seen: they stand in its strings only, where an escape means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] if ord(c) != 127 else "\\u007f" for c in text)


def _flat(rows: pa.Table) -> pa.Table:
    """``rows`` with lists as JSON text and bytes as text or base64: CSV has no other form for them."""
    columns = [
        pa.array([None if value is None else field_text(value) for value in values], pa.string())
        if pa.types.is_nested(column.type) or is_bytes(column.type)
        else column
        for column, values in zip(rows.columns, _json_columns(rows), strict=True)
    ]
    return pa.table(columns, names=rows.column_names)


class RowCount:
    """How many rows are done, for work whose end is not known: one line that changes, or a line now and then in a log.

    Short work says nothing.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pause = 0.5 if console.is_terminal else 15.0
        self._status = console.status("")
        self._started = self._said = time.monotonic()

    def __enter__(self) -> RowCount:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def reached(self, rows: int) -> None:
        now = time.monotonic()
        if now - self._said < self._pause:
            return
        self._said = now
        line = f"{rows:,} rows, {rows / (now - self._started):,.0f} rows/s"
        if self._console.is_terminal:
            self._status.update(line)
            self._status.start()
        else:
            self._console.print(line, highlight=False)


def print_verdicts(name: str, tally: Tally) -> None:
    """Reasons and flags of a file's captions, each with its share and an example, to standard output."""
    table = Table(
        "reason", "rows", "share", "for example", title=cell(f"{name}: {tally.accepted} of {tally.rows} accepted")
    )
    for code, rows in tally.reasons.most_common():
        table.add_row(code, str(rows), f"{rows / tally.rows:.2%}", cell(tally.examples[code][0].caption))
    table.add_section()
    for code, rows in tally.flags.most_common():
        table.add_row(f"flag: {code}", str(rows), f"{rows / tally.rows:.2%}", cell(tally.examples[code][0].caption))
    Console().print(table)
