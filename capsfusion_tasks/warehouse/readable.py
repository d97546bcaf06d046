"""Renders statements and conditions as SQL text that includes their values."""

from __future__ import annotations

from sqlalchemy import ClauseElement, Connection, FromClause, and_, true
from sqlalchemy.dialects import postgresql

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.warehouse.conditions import conditions


def readable_sql(statement: ClauseElement) -> str:
    """The statement with its values, quoted for psql."""
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect._backslash_escapes = False  # PostgreSQL's default, standard_conforming_strings
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def condition_sql(connection: Connection, wanted: CaptionFilter, captions: FromClause) -> str:
    """The conditions of ``wanted`` on a row of ``captions``, except the condition on the verdict.

    Raises UnclearFilter.
    """
    return readable_sql(and_(true(), *conditions(connection, wanted).all(captions)))
