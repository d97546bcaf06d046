"""Read-only connections with a time limit, for the captions view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.url import describe


@contextmanager
def reading(warehouse: Warehouse, seconds: int) -> Iterator[Connection]:
    """A read-only transaction. Raises NotReadyError for a statement of more than ``seconds``, or a lost server."""
    engine = warehouse.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with engine.connect() as connection:
            connection.execute(
                text("select set_config('statement_timeout', :timeout, true)"), {"timeout": f"{seconds}s"}
            )
            yield connection
    except OperationalError as error:
        if isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise NotReadyError(
                f"the query was cancelled after {seconds} s: narrow it by model, run, day or shard"
            ) from error
        said = " ".join(str(error.orig).split())
        raise NotReadyError(f"the warehouse, {describe(warehouse.url)}, does not answer: {said}") from error
