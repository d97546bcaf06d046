"""Pages of captions that match a filter, newest first, and the choices for the filter.

A page starts after a key (``loaded_at``, ``pair_id``, ``fusion_id``), not at an offset, and nothing is counted. So a
page takes as long with a thousand rows as with a hundred million. All values are bound parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Select,
    Table,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    tuple_,
    union_all,
)
from sqlalchemy.dialects import postgresql

from capsfusion_tasks.warehouse.tables import fused_captions, fusions, rejected_captions, shards, work_units

Verdict = Literal["any", "accepted", "rejected"]
SCORES = (
    *("caption_words", "raw_recall", "synthetic_recall", "fact_recall", "novelty", "invention", "repetition"),
    *("source_overlap", "similarity", "punsafe", "pwatermark"),
)
_SHOWN = ("image_url", "laion_2b", "laion_coco", "capsfusion", "flags", "loaded_at", "pair_id", "fusion_id")
_NEWEST = 1000  # captions to search one by one, which takes about 25 ms
_ORDER = ("loaded_at", "pair_id", "fusion_id")


@dataclass(frozen=True)
class CaptionFilter:
    """Conditions that a caption must meet, all of them. ``day``: the start of its data interval (UTC)."""

    words: str | None = None  # a web search: "quoted phrases", or, -without
    verdict: Verdict = "any"
    fusion_id: str | None = None
    reason: str | None = None  # rejected captions only
    flag: str | None = None
    shard: str | None = None  # shard_id or path
    day: date | None = None
    dag_run_id: str | None = None
    score: str | None = None  # one of SCORES
    score_min: float | None = None
    score_max: float | None = None


@dataclass(frozen=True)
class Position:
    """The key of a page's last row. The next page starts after it."""

    loaded_at: datetime
    pair_id: UUID
    fusion_id: str


@dataclass(frozen=True)
class Caption:
    """A row of a page. ``reasons``: None for an accepted caption."""

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
    """``sql`` selects the same rows in psql. ``following``: where the next page starts, None after the last page."""

    rows: list[Caption]
    following: Position | None
    sql: str


def caption_page(
    connection: Connection, wanted: CaptionFilter, after: Position | None = None, limit: int = 25
) -> CaptionPage:
    """The ``limit`` newest captions after ``after`` that match ``wanted``."""
    conditions = _Conditions(wanted, _shard_ids(connection, wanted.shard), _loaded_between(connection, wanted))
    if conditions.nothing_loaded:
        found = []
    else:
        find = _find_by_index if wanted.shard is not None else _find_rare if _is_rare(wanted) else _find
        found = find(connection, conditions, after, limit + 1)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        following = Position(last.loaded_at, last.pair_id, last.fusion_id)
    return CaptionPage(found[:limit], following, readable_sql(_page(conditions, after, limit)))


def _find(
    connection: Connection, conditions: _Conditions, after: Position | None, limit: int, among: int | None = None
) -> list[Caption]:
    return [Caption(**row) for row in connection.execute(_page(conditions, after, limit, among)).mappings()]


def _find_by_index(
    connection: Connection, conditions: _Conditions, after: Position | None, limit: int
) -> list[Caption]:
    """Finds all matches by a bitmap of an index, then takes the newest.

    PostgreSQL prefers to scan captions from the newest on until it has enough matches. It overestimates how frequent a
    word is, assumes 1 in 200 for a flag that no caption has, and expects captions of an old shard among the newest. It
    would then scan millions of rows.
    """
    others = ("enable_indexscan", "enable_seqscan")
    for name in others:
        connection.execute(select(func.set_config(name, "off", True)))
    found = _find(connection, conditions, after, limit)
    for name in others:
        connection.execute(select(func.set_config(name, "on", True)))
    return found


def _find_rare(connection: Connection, conditions: _Conditions, after: Position | None, limit: int) -> list[Caption]:
    """Searches the newest captions first, where frequent matches are; for rare ones it uses an index."""
    found = _find(connection, conditions, after, limit, among=_NEWEST)
    if limit / 4 <= len(found) < limit:  # frequent enough to be found a little further on
        found = _find(connection, conditions, after, limit, among=8 * _NEWEST)
    return found if len(found) == limit else _find_by_index(connection, conditions, after, limit)


@dataclass(frozen=True)
class _Conditions:
    wanted: CaptionFilter
    shard_ids: Sequence[str]
    loaded: tuple[datetime, datetime] | None  # first and last load of the wanted units; None without a filter by unit

    @property
    def nothing_loaded(self) -> bool:
        """Whether none of the wanted units is loaded. The query would scan all captions to find nothing."""
        return _by_unit(self.wanted) and self.loaded is None

    def rare(self, captions: FromClause) -> list[ColumnElement[bool]]:
        """Conditions that few captions may meet, and that have a GIN index."""
        wanted, column = self.wanted, captions.c
        found: list[ColumnElement[bool]] = []
        if wanted.words is not None:
            english: ColumnElement[str] = literal_column("'english'")
            document = func.to_tsvector(english, column.capsfusion)
            found.append(document.bool_op("@@")(func.websearch_to_tsquery(english, wanted.words)))
        if wanted.reason is not None:
            found.append(column.reasons.contains([wanted.reason]))
        if wanted.flag is not None:
            found.append(column.flags.contains([wanted.flag]))
        return found

    def others(self, captions: FromClause) -> list[ColumnElement[bool]]:
        """All other conditions."""
        wanted, column = self.wanted, captions.c
        found: list[ColumnElement[bool]] = []
        if wanted.fusion_id is not None:
            found.append(column.fusion_id == wanted.fusion_id)
        if wanted.shard is not None:
            mine = self.shard_ids
            found.append(or_(column.laion_2b_shard.in_(mine), column.laion_coco_shard.in_(mine)))
        if _by_unit(wanted):
            found.append(column.unit_id.in_(select(work_units.c.unit_id).where(*_units(wanted))))
        if self.loaded is not None:
            found.append(column.loaded_at.between(*self.loaded))
        if wanted.score is not None:
            score = column[wanted.score]
            found += [score >= wanted.score_min] if wanted.score_min is not None else []
            found += [score <= wanted.score_max] if wanted.score_max is not None else []
        return found


def _page(
    conditions: _Conditions, after: Position | None, limit: int, among: int | None = None
) -> Select[Any] | CompoundSelect[Any]:
    """``among``: apply the rare conditions only to this many of the newest captions that meet all others."""
    pages = [_of_table(table, conditions, after, limit, among) for table in _tables(conditions.wanted)]
    if len(pages) == 1:
        return pages[0]
    return union_all(*pages).order_by(*(text(f"{name} desc") for name in _ORDER)).limit(limit)


def _tables(wanted: CaptionFilter) -> list[Table]:
    accepted = wanted.verdict != "rejected" and wanted.reason is None
    rejected = wanted.verdict != "accepted" or wanted.reason is not None
    return [fused_captions] * accepted + [rejected_captions] * rejected


def _of_table(
    table: Table, conditions: _Conditions, after: Position | None, limit: int, among: int | None
) -> Select[Any]:
    captions = table.alias("caption")  # for readable SQL
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


def _is_rare(wanted: CaptionFilter) -> bool:
    return wanted.words is not None or wanted.reason is not None or wanted.flag is not None


def _by_unit(wanted: CaptionFilter) -> bool:
    return wanted.day is not None or wanted.dag_run_id is not None


def _units(wanted: CaptionFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.day is not None:
        start = datetime.combine(wanted.day, time(), UTC)
        found += [work_units.c.interval_start >= start, work_units.c.interval_start < start + timedelta(days=1)]
    if wanted.dag_run_id is not None:
        found.append(work_units.c.dag_run_id == wanted.dag_run_id)
    return found


def _loaded_between(connection: Connection, wanted: CaptionFilter) -> tuple[datetime, datetime] | None:
    """The first and last load of the wanted units. Captions have their unit's time, and an index on it.

    Without this condition PostgreSQL expects captions of an old run among the newest, and scans those.
    """
    if not _by_unit(wanted):
        return None
    loaded = work_units.c.loaded_at
    first, last = connection.execute(select(func.min(loaded), func.max(loaded)).where(*_units(wanted))).one()
    return None if first is None else (first, last)


def _shard_ids(connection: Connection, shard: str | None) -> list[str]:
    """The shard with this id, or the shards with this path: a replaced file is a new shard."""
    if shard is None:
        return []
    return list(
        connection.scalars(select(shards.c.shard_id).where(or_(shards.c.shard_id == shard, shards.c.path == shard)))
    )


@dataclass(frozen=True)
class KnownFusion:
    fusion_id: str
    model: str
    num_beams: int
    dtype: str
    created_at: datetime


def known_fusions(connection: Connection) -> list[KnownFusion]:
    """The fusions, newest first."""
    columns = fusions.c
    statement = select(columns.fusion_id, columns.model, columns.num_beams, columns.dtype, columns.created_at)
    return [KnownFusion(**row) for row in connection.execute(statement.order_by(columns.created_at.desc())).mappings()]


def newest_shards(connection: Connection, limit: int) -> list[str]:
    """Paths of the shards that arrived last, the newest first."""
    statement = select(shards.c.path).order_by(shards.c.arrived_at.desc(), shards.c.path).limit(limit)
    return list(dict.fromkeys(connection.scalars(statement)))


def readable_sql(statement: Select[Any] | CompoundSelect[Any]) -> str:
    """The statement with its values, quoted for psql."""
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    dialect._backslash_escapes = False  # PostgreSQL's default, standard_conforming_strings
    return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
