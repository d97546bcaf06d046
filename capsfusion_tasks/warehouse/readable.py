"""Renders SQLAlchemy statements and conditions as SQL text, with values in place of parameters."""

from __future__ import annotations

from sqlalchemy import ClauseElement, Connection, FromClause, and_, true
from sqlalchemy.dialects import postgresql

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.warehouse.conditions import conditions


def readable_sql(statement: ClauseElement) -> str:
    """The statement as text that psql can run. Its values are written as SQL literals."""
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect._backslash_escapes = False  # do not double backslashes: PostgreSQL by default takes them literally
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def condition_sql(connection: Connection, wanted: CaptionFilter, captions: FromClause) -> str:
    """The conditions of ``wanted`` on a row of ``captions``, except the one on the verdict (accepted or rejected).

    Raises UnclearFilter if the filter has a part of a name, and too many shards or runs have names with this part.
    """
    return readable_sql(and_(true(), *conditions(connection, wanted).all(captions)))
