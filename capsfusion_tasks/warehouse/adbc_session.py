"""ADBC connections to PostgreSQL. They read and write Arrow tables, and raise errors that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse.connection import IN_UTC, Warehouse
from capsfusion_tasks.warehouse.sqlstates import READ_ONLY, REFUSED, unreachable, user_error

# By default, the driver wraps each statement in COPY (…) TO, which streams the rows. But COPY accepts only queries.
# Pass WITHOUT_COPY for other statements.
WITHOUT_COPY = {"adbc.postgresql.use_copy": "false"}


@contextmanager
def adbc_session(warehouse: Warehouse, *, read_only: bool = False) -> Iterator[Any]:
    """Open a connection that lasts until the block ends. With ``read_only``, the block cannot change any data.

    Raises NotReadyError if the connection is lost, and InputError if the server refuses a statement.
    """
    try:
        connection = adbc.connect(warehouse.adbc_uri, autocommit=False)
    except adbc.Error as error:
        problem = unreachable(warehouse.url, message(error))
        # ``open_warehouse`` has reached the server a moment ago. So use a message without the advice to check the URL.
        if isinstance(problem, NotReadyError):
            problem = user_error(warehouse.url, message(error), None)
        raise problem from error
    with connection:
        try:
            _execute(connection, IN_UTC)
            if read_only:
                _execute(connection, "set transaction isolation level repeatable read read only")
            yield connection
        except adbc.Error as error:
            raise _as_user_error(warehouse, connection, error, read_only) from error


def stream(
    warehouse: Warehouse, connection: Any, cursor: Any, query: str
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Run ``query``. Returns the schema of its result, and the result's batches, which COPY streams.

    The session must be read-only. Raises the same errors as ``adbc_session``.
    """
    cursor.execute(query)
    # Use the driver's own reader. The reader that fetch_record_batch returns raises OSErrors without an SQLSTATE. Such
    # errors do not show whether the query was cancelled or the server refused it. The driver's own reader has no
    # public name (adbc-driver-manager 1.13).
    reader = cursor._results.reader
    return reader.schema, _batches(warehouse, connection, reader)


def _batches(warehouse: Warehouse, connection: Any, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (adbc.Error, pa.ArrowException, OSError) as error:
        raise _as_user_error(warehouse, connection, error, read_only=True) from error


def _as_user_error(
    warehouse: Warehouse, connection: Any, error: Exception, read_only: bool
) -> InputError | NotReadyError:
    code = getattr(error, "sqlstate", None)
    refused = is_alive(connection) if code is None else code == READ_ONLY and read_only
    return user_error(warehouse.url, message(error), REFUSED if refused else code)


def is_alive(connection: Any) -> bool:
    """Whether the server still answers on ``connection``. Rolls back the open transaction."""
    try:
        connection.rollback()
        _execute(connection, "select 1")
    except adbc.Error:
        return False
    return True


def _execute(connection: Any, statement: str) -> None:
    with connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor:
        cursor.execute(statement)


def message(error: Exception) -> str:
    """PostgreSQL's message with its detail and hint, in one line."""
    parts = details(error)
    said = [parts.get(f"MESSAGE_{part}") for part in ("PRIMARY", "DETAIL", "HINT")]
    words = str(error).partition("Query was:")[0].split()
    return ". ".join(part.rstrip(".") for part in said if part) or " ".join(words).rstrip(".")


def details(error: Exception) -> dict[str, str]:
    """Name → text of each field that PostgreSQL's error has: ``MESSAGE_PRIMARY``, ``STATEMENT_POSITION``, …"""
    found = getattr(error, "details", None) or ()
    texts = ([bytes(part).decode(errors="replace") for part in pair] for pair in found)
    return {name.removeprefix("PG_DIAG_"): value for name, value in texts}


def quotes_advice(statement: str, said: str) -> str:
    """Advice to use single quotes, if PostgreSQL took text in double quotes for a column's name. Empty if not."""
    found = re.search(r'column "(.*?)" does not exist', said)
    if found is None or f'"{found[1]}"' not in statement:
        return ""
    return f"; write text in single quotes: '{found[1]}'"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """``kind`` without the metadata that the driver adds to the elements of a list type."""
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind
