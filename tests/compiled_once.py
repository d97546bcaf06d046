"""Lets all engines of a process share SQLAlchemy's compiled statements, because each task opens an engine of its own.

In one process, tests call hundreds of tasks. To compile their statements anew took a sixth of the tasks' time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg


@contextmanager
def statements_compiled_once() -> Iterator[None]:
    """Within the block, new connections have the same cache, whose keys contain the engines' dialects.

    Dialects of all engines are made equal. They do not differ, because all tests have the same version of PostgreSQL.
    """
    cache: dict[Any, Any] = {}

    def share(connection: Connection) -> None:
        connection.execution_options(compiled_cache=cache)

    event.listen(Engine, "engine_connect", share)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PGDialect_psycopg, "__eq__", lambda one, other: type(one) is type(other))
            patch.setattr(PGDialect_psycopg, "__hash__", lambda one: hash(type(one)))
            yield
    finally:
        event.remove(Engine, "engine_connect", share)
