"""Pages of captions that match a filter, newest first.

A query for a page does not count rows, and skips no rows by an offset: the page starts after the key (``loaded_at``,
``pair_id``, ``fusion_id``) of the previous page's last row. So a page loads as quickly from a table of a hundred
million rows as from one of a thousand. All values are bound parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    Table,
    literal,
    null,
    select,
    text,
    tuple_,
    union_all,
)

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.warehouse.caption_tables import rejected_captions
from capsfusion_tasks.warehouse.conditions import Conditions, bitmaps_only, conditions
from capsfusion_tasks.warehouse.readable import readable_sql

_SHOWN = ("image_url", "laion_2b", "laion_coco", "capsfusion", "flags", "loaded_at", "pair_id", "fusion_id")
_NEWEST = 1000  # if matches may be rare, search only this many of the newest captions first; this takes about 25 ms
_ORDER = ("loaded_at", "pair_id", "fusion_id")


@dataclass(frozen=True)
class Position:
    """The key of a page's last row. The next page starts after it."""

    loaded_at: datetime
    pair_id: UUID
    fusion_id: str


@dataclass(frozen=True)
class Caption:
    """A row of a page. ``reasons``: why validation rejected the caption; None for an accepted caption."""

    image_url: str
    laion_2b: str
    laion_coco: str
    capsfusion: str
    flags: list[str]
    loaded_at: datetime
    pair_id: UUID
    fusion_id: str
    reasons: list[str] | None


@dataclass(frozen=True)
class CaptionPage:
    """A page of captions. ``sql``: a query that selects the same rows in psql.

    ``following``: the position after which the next page starts. None on the last page.
    """

    rows: list[Caption]
    following: Position | None
    sql: str


def caption_page(
    connection: Connection, wanted: CaptionFilter, after: Position | None = None, limit: int = 25
) -> CaptionPage:
    """The ``limit`` newest captions that match ``wanted``, starting after the position ``after``."""
    asked = conditions(connection, wanted)
    if asked.nothing_loaded:
        found = []
    else:
        find = _find_by_index if asked.few else _find_rare if asked.rare_with_index else _find
        found = find(connection, asked, after, limit + 1)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        following = Position(last.loaded_at, last.pair_id, last.fusion_id)
    return CaptionPage(found[:limit], following, readable_sql(_page(asked, after, limit)))


def _find(connection: Connection, conditions: Conditions, after: Position | None, limit: int) -> list[Caption]:
    return _captions(connection, _page(conditions, after, limit))


def _find_by_index(connection: Connection, conditions: Conditions, after: Position | None, limit: int) -> list[Caption]:
    """Find all matches by a bitmap scan of an index, then take the newest."""
    return _by_index(connection, _page(conditions, after, limit))


def _find_rare(connection: Connection, conditions: Conditions, after: Position | None, limit: int) -> list[Caption]:
    """Search the tables of accepted and of rejected captions separately, each with the whole ``limit``.

    The search of a table first scans only its newest captions (see ``_rare_in``), so the scans of two tables may reach
    back to different times. Example: the scan of table A reaches back to March, and the scan of table B to January. If
    both tables shared one limit, B's matches could fill the page back to January. The next page would start there, so
    no page would show A's matches of February.
    """
    found = [row for table in conditions.tables for row in _rare_in(connection, table, conditions, after, limit)]
    found.sort(key=lambda row: (row.loaded_at, row.pair_id, row.fusion_id), reverse=True)
    return found[:limit]


def _rare_in(
    connection: Connection, table: Table, conditions: Conditions, after: Position | None, limit: int
) -> list[Caption]:
    """Search only the newest captions of ``table``. If these have too few matches, find all matches with an index."""
    found = _captions(connection, _of_table(table, conditions, after, limit, among=_NEWEST))
    if limit / 4 <= len(found) < limit:  # matches are so frequent that a longer scan probably finds enough
        found = _captions(connection, _of_table(table, conditions, after, limit, among=8 * _NEWEST))
    return found if len(found) == limit else _by_index(connection, _of_table(table, conditions, after, limit))


def _by_index(connection: Connection, statement: Select[Any] | CompoundSelect[Any]) -> list[Caption]:
    bitmaps_only(connection, True)
    found = _captions(connection, statement)
    bitmaps_only(connection, False)
    return found


def _captions(connection: Connection, statement: Select[Any] | CompoundSelect[Any]) -> list[Caption]:
    return [Caption(**row) for row in connection.execute(statement).mappings()]


def _page(conditions: Conditions, after: Position | None, limit: int) -> Select[Any] | CompoundSelect[Any]:
    """The query of a page. Unlike the queries of ``_rare_in``, it does not search only the newest captions."""
    pages = [_of_table(table, conditions, after, limit) for table in conditions.tables]
    if len(pages) == 1:
        return pages[0]
    return union_all(*pages).order_by(*(text(f"{name} desc") for name in _ORDER)).limit(limit)


def _of_table(
    table: Table, conditions: Conditions, after: Position | None, limit: int, among: int | None = None
) -> Select[Any]:
    """The newest matches in ``table``.

    ``among``: test the conditions of ``Conditions.rare`` on this many of the newest captions. None: on all captions.
    """
    captions = table.alias("caption")  # a plain name, because users see the SQL
    reasons = captions.c.reasons if "reasons" in captions.c else null().cast(rejected_captions.c.reasons.type)
    statement = select(*(captions.c[name] for name in _SHOWN), reasons.label("reasons")).where(
        *conditions.others(captions)
    )
    key = [captions.c[name] for name in _ORDER]
    if after is not None:
        position = tuple_(
            literal(after.loaded_at, captions.c.loaded_at.type),
            literal(after.pair_id, captions.c.pair_id.type),
            literal(after.fusion_id),
        )
        statement = statement.where(tuple_(*key) < position)
    if among is None:
        return _newest(statement.where(*conditions.rare(captions)), captions, limit)
    newest = _newest(statement, captions, among).subquery("caption")
    return _newest(select(newest).where(*conditions.rare(newest)), newest, limit)


def _newest(statement: Select[Any], captions: FromClause, limit: int) -> Select[Any]:
    return statement.order_by(*(captions.c[name].desc() for name in _ORDER)).limit(limit)
