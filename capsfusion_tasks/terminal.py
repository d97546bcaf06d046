"""Prints query results and captions to a terminal or a pipe."""

from __future__ import annotations

import json
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from capsfusion_tasks.caption_files.json_types import binary_leaves, is_bytes, json_values
from capsfusion_tasks.caption_files.writing import field_text, json_bytes
from capsfusion_tasks.errors import InputError, printable

if TYPE_CHECKING:
    from capsfusion_tasks.validation.tally import Tally

_WIDEST = 1 << 20  # width of a line in characters, larger than any table
_LOG_SECONDS = 60.0  # time between two messages "still working" in a log
Format = Literal["table", "csv", "json", "parquet"]


def cell(value: Any) -> Text:
    """A value as text for a terminal. Replaces control characters, because a caption can contain escape sequences."""
    text = "" if value is None else str(value)
    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def print_rows(rows: pa.Table, output_format: Format) -> None:
    """Print ``rows`` to standard output. JSON is one object per line, with NaN and infinite numbers as null.

    A table that is wider than the terminal is printed as records, with a line per value. A pipe gets exact values in
    all formats except ``table``. A terminal gets no control characters: JSON has escapes, tables and CSV have
    replacement characters. Raises InputError if two columns of JSON or Parquet would have the same name, because a
    reader would keep at most one of them.
    """
    if output_format in ("json", "parquet"):
        _refuse_repeated(rows.column_names, output_format)
    if output_format == "table":
        _print_table(rows)
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
            raise InputError("Parquet cannot be shown on a terminal: write it to a file, with > rows.parquet")
        pa.parquet.write_table(rows, sys.stdout.buffer)
    else:
        for values in zip(*_json_columns(rows), strict=True):
            line = _escaped(json_bytes(dict(zip(rows.column_names, values, strict=True))).decode())
            sys.stdout.buffer.write(f"{line}\n".encode())  # JSON is UTF-8, even if the terminal has another encoding


def _refuse_repeated(names: list[str], output_format: str) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"the result has several columns of the name {', '.join(repeated)}, but {output_format} has one value for"
            " each name: give each column a different name, as in select 1 as one, 2 as two"
        )


def _json_columns(rows: pa.Table) -> list[list[Any]]:
    binary = binary_leaves(rows)
    return [json_values(rows[n], name, "the result", binary) for n, name in enumerate(rows.column_names)]


def _print_table(rows: pa.Table) -> None:
    console = Console()
    names = [cell(name) for name in rows.column_names]
    values = [[_shown(value) for value in row] for row in zip(*_json_columns(rows), strict=True)]
    table = Table()
    for name in names:
        table.add_column(name)
    for row in values:
        table.add_row(*row)
    if Measurement.get(console, console.options.update(max_width=_WIDEST), table).maximum <= console.width:
        console.print(table)
    else:
        _print_records(console, names, values)
    console.print(f"{rows.num_rows:,} {'row' if rows.num_rows == 1 else 'rows'}", highlight=False)


def _shown(value: Any) -> Text:
    return cell(value if isinstance(value, float) else field_text(value))


def _print_records(console: Console, names: list[Text], values: list[list[Text]]) -> None:
    """Print each row as a block with a line for each column, like psql's expanded display."""
    for number, row in enumerate(values, start=1):
        console.print(f"-- row {number} --", highlight=False)
        record = Table.grid(padding=(0, 2, 0, 0))
        record.add_column(no_wrap=True, style="bold")
        record.add_column(overflow="fold")
        for name, value in zip(names, row, strict=True):
            record.add_row(name, value)
        console.print(record)


def print_text(text: str) -> None:
    """Print a report to standard output, line by line."""
    Console().print(printable(text), highlight=False, markup=False, soft_wrap=True)


def _escaped(text: str) -> str:
    """Escape invisible characters of JSON. They occur only in strings, where an escape has the same meaning."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] if ord(c) != 127 else "\\u007f" for c in text)


def _flat(rows: pa.Table) -> pa.Table:
    """``rows`` with values that CSV can represent: lists become JSON text, and bytes become text or base64."""
    columns = [
        pa.array([None if value is None else field_text(value) for value in values], pa.string())
        if pa.types.is_nested(column.type) or is_bytes(column.type)
        else column
        for column, values in zip(rows.columns, _json_columns(rows), strict=True)
    ]
    return pa.table(columns, names=rows.column_names)


class RowCount:
    """A progress line for work of unknown length: updated in place on a terminal, printed every 15 s in a log.

    Prints nothing if the work ends before the first line is due.
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


class Working:
    """Prints lines of progress. If no line comes for ``after`` seconds, prints a message "still working".

    On a terminal, this message is updated in place, until the next line replaces it. A log gets the message once, then
    at most once per minute.
    """

    def __init__(self, console: Console, *, after: float = 4.0) -> None:
        self._console = console
        self._pause = after
        self._tick = min(after, 1.0)
        self._doing = ""
        self._status = console.status("")
        self._started = self._said = time.monotonic()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="working", daemon=True)

    def __enter__(self) -> Working:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._status.stop()

    def say(self, line: str) -> None:
        with self._lock:
            self._status.stop()
            self._console.print(printable(line), markup=False, highlight=False)
            self._said = time.monotonic()

    def doing(self, what: str) -> None:
        """Show ``what``, such as "counting captions", in the messages "still working"."""
        self._doing = what

    def _watch(self) -> None:
        while not self._ended.wait(self._tick):
            with self._lock:
                if time.monotonic() - self._said >= self._pause:
                    self._say_still_working()

    def _say_still_working(self) -> None:
        now = time.monotonic()
        line = f"still working, {now - self._started:.0f} s since the start" + (self._doing and f": {self._doing}")
        if self._console.is_terminal:
            self._status.update(line)
            self._status.start()
        else:
            self._console.print(line, markup=False, highlight=False)
            self._said = now
            self._pause = _LOG_SECONDS


def print_verdicts(name: str, tally: Tally) -> None:
    """Print a table: how many captions of a file each rule rejects or flags, with the share and an example."""
    table = Table(
        "reason", "rows", "share", "example", title=cell(f"{name}: {tally.accepted} of {tally.rows} accepted")
    )
    for code, rows in tally.reasons.most_common():
        table.add_row(code, str(rows), f"{rows / tally.rows:.2%}", cell(tally.examples[code][0].caption))
    table.add_section()
    for code, rows in tally.flags.most_common():
        table.add_row(f"flag: {code}", str(rows), f"{rows / tally.rows:.2%}", cell(tally.examples[code][0].caption))
    Console().print(table)
