"""Lets all engines of a process share SQLAlchemy's compiled statements, because each task opens an engine of its own.

In one process, tests call hundreds of tasks. To compile their statements anew took a sixth of the tasks' time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.util import LRUCache


@contextmanager
def statements_compiled_once() -> Iterator[None]:
    """Within the block, new engines have the same cache, whose keys contain the engines' dialects.

    Dialects of all engines are made equal. They do not differ, because all tests have the same version of PostgreSQL.
    """
    cache: LRUCache[Any, Any] = LRUCache(5000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_compiled_cache", property(lambda _: cache, lambda *_: None), raising=False)
        patch.setattr(PGDialect_psycopg, "__eq__", lambda one, other: type(one) is type(other))
        patch.setattr(PGDialect_psycopg, "__hash__", lambda one: hash(type(one)))
        yield
