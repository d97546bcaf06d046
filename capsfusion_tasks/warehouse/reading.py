"""Database connections with a time limit for each statement, for the captions view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.url import describe


@contextmanager
def reading(warehouse: Warehouse, seconds: int) -> Iterator[Connection]:
    """A read-only transaction. Raises NotReadyError if a statement exceeds ``seconds``, or if the connection fails."""
    engine = warehouse.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with _in_time(warehouse, engine, seconds) as connection:
        yield connection


@contextmanager
def writing(warehouse: Warehouse, seconds: int, what: str) -> Iterator[Connection]:
    """A transaction that may write. ``what``: what the caller writes, for error messages, for example "judgements".

    Raises InputError if the login may only read, and NotReadyError like ``reading``.
    """
    try:
        with _in_time(warehouse, warehouse.engine, seconds) as connection:
            yield connection
            connection.commit()
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        raise InputError(
            f"the login of the warehouse, {describe(warehouse.url)}, may not write {what}; docs/operations.md says what"
            " an administrator can grant"
        ) from error


@contextmanager
def _in_time(warehouse: Warehouse, engine: Engine, seconds: int) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            connection.execute(
                text("select set_config('statement_timeout', :timeout, true)"), {"timeout": f"{seconds}s"}
            )
            yield connection
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise NotReadyError(
                f"the query was cancelled after {seconds} s: narrow the filter by model, run, day or shard"
            ) from error
        said = " ".join(str(error.orig).split())
        raise NotReadyError(f"the warehouse, {describe(warehouse.url)}, does not answer: {said}") from error
