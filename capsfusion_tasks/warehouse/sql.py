"""Runs a user's SQL: one read-only statement, with the result as an Arrow table of plain types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.adbc_session import (
    WITHOUT_COPY,
    adbc_session,
    details,
    is_alive,
    message,
    quotes_advice,
)
from capsfusion_tasks.warehouse.caption_tables import judgements
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.schema import SCHEMA
from capsfusion_tasks.warehouse.sqlstates import READ_ONLY, UNDEFINED_COLUMN, UNDEFINED_TABLE, may_pass

_MOST_DIGITS = 38  # maximum number of digits of Arrow's decimal128
_UNKNOWN = "which cannot be shown"
_CAST = "cast the column to text"
_ONLY_QUERIES = (
    "only queries are run, in a read-only transaction: start with select, explain, show or table; to write a file, use"
    " select with --format csv, json or parquet"
)


def execute_sql(warehouse: Warehouse, sql: str) -> pa.Table:
    """Run one statement in a read-only transaction, with the schema ``capsfusion`` on its search path.

    uuid, json and intervals become text. numeric becomes decimal, or text if it has more than 38 digits. Column
    names can repeat, as in SQL. Raises InputError if the statement fails (with PostgreSQL's message), or if a column
    has an unsupported type, such as inet, point or int4range. Raises NotReadyError if the connection is lost.
    """
    if not sql.strip():
        raise InputError("the SQL statement is empty")
    with (
        adbc_session(warehouse, read_only=True) as connection,
        # By default, the driver runs a query inside COPY, which does not accept SHOW, EXPLAIN, or a comment at the end.
        connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor,
    ):
        cursor.execute(f"set local search_path = {SCHEMA}, public")
        try:
            # Refuse a statement without columns in its result, such as COPY, before it runs: PostgreSQL's superuser may
            # write files with COPY, even in a read-only transaction.
            if not cursor.adbc_execute_schema(sql).names:
                raise InputError(f"the SQL statement returns no rows, but {_ONLY_QUERIES}")
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
        except pa.ArrowInvalid as error:  # the result has a composite type, such as row(1, 2)
            raise InputError(f"the SQL statement has a column of a type {_UNKNOWN}: {error}; {_CAST}") from error
        except adbc.Error as error:
            if _connection_is_at_fault(connection, error):
                raise
            raise InputError(
                f"the SQL statement fails: {message(error)}{_place(sql, error)}{_advice(sql, error)}"
            ) from error
    _refuse_unknown(table.schema)
    return pa.Table.from_arrays([_plain(column) for column in table.columns], names=table.column_names)


def _connection_is_at_fault(connection: Any, error: adbc.Error) -> bool:
    """Whether the connection caused the error, and not the statement.

    A write in a read-only transaction is an error of the statement.
    """
    if error.sqlstate is None:
        return not is_alive(connection)
    return may_pass(error.sqlstate) and error.sqlstate != READ_ONLY


def _place(sql: str, error: adbc.Error) -> str:
    position = details(error).get("STATEMENT_POSITION")
    if position is None:
        return ""
    before = sql[: int(position) - 1].split("\n")
    return f" (line {len(before)}, column {len(before[-1]) + 1})"


def _advice(sql: str, error: adbc.Error) -> str:
    """Advice on the mistakes that users make in their first queries."""
    if error.sqlstate == UNDEFINED_TABLE:
        names = sorted(table.name for table in judgements.metadata.sorted_tables)
        return f"; the tables are captions, {', '.join(names)}"
    if error.sqlstate == UNDEFINED_COLUMN:
        return quotes_advice(sql, message(error)) or "; to see the columns of a table, run: select * from TABLE limit 1"
    if "multiple commands" in str(error):
        return "; give one statement at a time"
    return ""


def _refuse_unknown(schema: pa.Schema) -> None:
    """Raise InputError for a column whose values the driver does not decode but returns as bytes."""
    for name, column in zip(schema.names, schema.types, strict=True):
        kind, nested = column, False
        while pa.types.is_list(kind):
            kind, nested = kind.value_type, True
        opaque = isinstance(kind, pa.OpaqueType) and pa.types.is_binary(kind.storage_type)
        if opaque or (nested and pa.types.is_interval(kind)):
            found = kind.type_name if opaque else "interval[]"
            raise InputError(f"column {name} of the SQL statement is of the type {found}, {_UNKNOWN}; {_CAST}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in a type that CSV, JSON and Parquet writers support."""
    kind = column.type
    if pa.types.is_interval(kind):
        return _texts("{0.months} months {0.days} days {0.nanoseconds} ns".format, column)
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    stored = column.cast(kind.storage_type)
    if isinstance(kind, pa.UuidType):
        return _texts(lambda value: str(UUID(bytes=value)), stored)
    if isinstance(kind, pa.OpaqueType) and kind.type_name == "numeric":
        return _decimals(stored)
    return stored


def _texts(render: Callable[[Any], str], column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([[None if value is None else render(value) for value in column.to_pylist()]], pa.string())


def _decimals(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    whole, places = _longest(texts, r"^-|\..*$"), _longest(texts, r"^[^.]*\.?")
    if whole + places > _MOST_DIGITS:  # without this check the cast overflows silently: 1e400 would become 0
        return texts
    try:
        return texts.cast(pa.decimal128(_MOST_DIGITS, places))
    except pa.ArrowInvalid:  # NaN or infinity, which decimal128 cannot store
        return texts


def _longest(texts: pa.ChunkedArray, left_out: str) -> int:
    """The length of the longest value, without characters that the pattern ``left_out`` matches."""
    return pc.max(pc.utf8_length(pc.replace_substring_regex(texts, left_out, ""))).as_py() or 0
