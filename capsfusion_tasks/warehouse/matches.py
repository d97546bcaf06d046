"""Counts the captions of one table that match a filter: exactly, or estimated from a sample.

If there are only a few matches, counts them all. Otherwise, takes a sample: the first rows of some units, from the
oldest to the newest. These rows are random, because a unit's rows are stored in the order of their pair_id, which is a
digest. Sampling a large table takes no longer than sampling a small one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

import psycopg
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    FromClause,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    func,
    lateral,
    literal,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.exc import OperationalError

from capsfusion_tasks.warehouse.conditions import Conditions, bitmaps_only
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.readable import readable_sql

MOST = 10_000  # largest number of captions to count one by one
MILLISECONDS = 120  # time limit for counting the captions of a table one by one
BINS = 20
# Number of rows to sample. A search for words samples fewer rows, because splitting a caption into words takes 25 µs.
_SAMPLE, _SAMPLE_OF_WORDS = 4000, 1000
_SAMPLED_UNITS = 40
_ENOUGH = 20  # so many matches in a sample suffice: an estimate from 20 matches has an error of about 20%

Basis = Literal["all", "sample", "some"]


@dataclass(frozen=True)
class Bins:
    """The histogram of a score: BINS bins from 0 to ``end``. The last bin also counts everything above."""

    score: str
    end: float


@dataclass
class Matches:
    """Numbers of matching captions, by unit, reason, flag and score. They are estimates unless ``basis`` is all.

    ``basis`` says what was counted. all: all matches. sample: a sample of the table. some: only the oldest matches.
    ``total`` is None if matches are so rare that counting them took too long.
    """

    basis: Basis
    total: float | None
    units: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    bins: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Stock:
    """The ledger's number of rows in one table of captions. Counts only the units that the filter selects.

    ``rows``: the sum over all of these units. ``column``: SQL for the number of rows of one unit.
    """

    rows: float
    column: ColumnElement[float]


def matches(connection: Connection, conditions: Conditions, table: Table, stock: Stock, bins: Bins) -> Matches:
    """The numbers of captions in ``table`` that match ``conditions``."""
    if conditions.nothing_loaded or (conditions.wanted.reason is not None and "reasons" not in table.c):
        return Matches("all", 0)
    if stock.rows <= MOST:
        counted = _counted(connection, conditions, table, bins)
        return counted or _sampled(connection, conditions, table, stock, bins)[0]
    if not conditions.by_row:
        sampled, _ = _sampled(connection, conditions, table, stock, bins)
        sampled.total = stock.rows
        return sampled
    if not conditions.few:
        sampled, found = _sampled(connection, conditions, table, stock, bins)
        if found >= _ENOUGH and (sampled.total or 0) > 2 * MOST:
            return sampled
    counted = _counted(connection, conditions, table, bins, MILLISECONDS)
    if counted is not None:
        return counted
    return Matches("some", None) if conditions.few or not found else sampled


def _counted(
    connection: Connection, conditions: Conditions, table: Table, bins: Bins, milliseconds: int | None = None
) -> Matches | None:
    """Count at most MOST + 1 matches. If there are more than MOST, the total is an estimate of PostgreSQL's planner.

    Returns None if the count takes longer than ``milliseconds``.
    """
    captions = table.alias("caption")
    asked = _columns(captions, bins).where(*conditions.all(captions)).limit(MOST + 1)
    by_index = conditions.rare_with_index and milliseconds is not None
    if by_index:
        bitmaps_only(connection, True)
    found = _in_time(connection, _counts(asked), milliseconds)
    if by_index:
        bitmaps_only(connection, False)
    if found is None:
        return None
    rows = sum(count for kind, _, _, count in found if kind == "row")
    if rows <= MOST:
        return _weighted("all", rows, found, defaultdict(lambda: 1.0))
    planned = max(_planned_rows(connection, select(captions.c.pair_id).where(*conditions.all(captions))), rows)
    some = _weighted("some", planned, found, defaultdict(lambda: planned / rows))
    some.units.clear()  # the counted matches are the oldest, so counts by unit would mislead
    return some


def _sampled(
    connection: Connection, conditions: Conditions, table: Table, stock: Stock, bins: Bins
) -> tuple[Matches, int]:
    """Estimates from a sample, and the number of matches in the sample."""
    captions = table.alias("caption")
    loaded = (
        select(
            work_units.c.unit_id,
            stock.column.label("stock"),
            func.row_number().over(order_by=(work_units.c.loaded_at, work_units.c.unit_id)).label("at"),
            func.count().over().label("units"),
        )
        .where(*conditions.units(), stock.column > 0)
        .subquery()
    )
    step = func.greatest(1, (loaded.c.units + _SAMPLED_UNITS - 1) // _SAMPLED_UNITS)
    chosen = select(loaded).where((loaded.c.at - 1) % step == 0).cte("chosen").prefix_with("materialized")
    rows = _SAMPLE if conditions.wanted.words is None else _SAMPLE_OF_WORDS
    units = connection.execute(select(chosen.c.unit_id, chosen.c.stock)).all()
    each = max(1, rows // max(1, len(units)))
    fits = case((and_(true(), *conditions.all(captions)), true()))
    first = lateral(
        _columns(captions, bins)
        .add_columns(fits.label("fits"))
        .where(captions.c.unit_id == chosen.c.unit_id)
        .limit(each)
    )
    found = connection.execute(_counts(select(first).select_from(chosen.join(first, true())))).all()
    taken: Counter[str] = Counter()
    fitting: Counter[str] = Counter()
    for kind, unit_id, _, count in found:
        taken[unit_id] += count if kind in ("row", "other") else 0
        fitting[unit_id] += count if kind == "row" else 0
    known = {unit_id: float(rows) for unit_id, rows in units if taken[unit_id]}
    scale = stock.rows / sum(known.values()) if known else 0.0
    weights = {unit_id: scale * rows / taken[unit_id] for unit_id, rows in known.items()}
    total = sum(count * weights[unit_id] for unit_id, count in fitting.items())
    return _weighted("sample", total, found, weights), fitting.total()


def _columns(captions: FromClause, bins: Bins) -> Select[Any]:
    column = captions.c
    reasons = column.reasons if "reasons" in column else null().cast(column.flags.type)
    score = cast(column[bins.score], Double)
    bin = func.width_bucket(score, 0.0, bins.end, BINS)
    # GREATEST and LEAST would turn NULL into a number.
    at = case((and_(score.is_not(None), score != literal(nan, Double)), func.least(func.greatest(bin, 1), BINS)))
    return select(column.unit_id, column.flags, reasons.label("reasons"), at.label("bin"))


def _counts(asked: Select[Any]) -> Any:
    """SQL that counts the rows of ``asked`` by unit. Each row of its result is (kind, unit_id, value, captions).

    The kind "row" counts all rows of a unit. The kinds "flags", "reasons" and "bin" count the rows with ``value``. If
    ``asked`` has a column ``fits``, a row whose ``fits`` is not true counts only under the kind "other".
    """
    matched = asked.cte("matched").prefix_with("materialized")
    column = matched.c
    fits = column.fits.is_(True) if "fits" in column else true()
    kind = case((fits, literal("row")), else_=literal("other")) if "fits" in column else literal("row")
    parts = [select(kind.label("kind"), column.unit_id, literal("").label("value"), func.count().label("n"))]
    parts[0] = parts[0].group_by(kind if "fits" in column else column.unit_id, column.unit_id)
    for name in ("flags", "reasons"):
        value = func.unnest(column[name]).table_valued("value").alias(name).render_derived()
        parts.append(
            select(literal(name), column.unit_id, value.c.value, func.count())
            .select_from(matched.join(value, true()))
            .where(fits)
            .group_by(column.unit_id, value.c.value)
        )
    at = column.bin.cast(Text)
    parts.append(
        select(literal("bin"), column.unit_id, at, func.count())
        .where(fits, column.bin.is_not(None))
        .group_by(column.unit_id, at)
    )
    return union_all(*parts)


def _weighted(basis: Basis, total: float, found: Sequence[Any], weights: Any) -> Matches:
    made = Matches(basis, total)
    of_kind: dict[str, Counter[str]] = {"flags": made.flags, "reasons": made.reasons, "row": made.units}
    for kind, unit_id, value, count in found:
        if kind == "bin":
            made.bins[int(value) - 1] += count * weights[unit_id]
        elif kind in of_kind:
            of_kind[kind][unit_id if kind == "row" else value] += count * weights[unit_id]
    return made


def _in_time(connection: Connection, statement: Any, milliseconds: int | None) -> Sequence[Any] | None:
    """The rows of ``statement``. None if it takes longer than ``milliseconds``."""
    if milliseconds is None:
        return connection.execute(statement).all()
    limit = connection.scalar(select(func.current_setting("statement_timeout")))
    attempt = connection.begin_nested()
    try:
        connection.execute(select(func.set_config("statement_timeout", f"{milliseconds}ms", True)))
        found = connection.execute(statement).all()
        connection.execute(select(func.set_config("statement_timeout", limit, True)))
    except OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.QueryCanceled):
            raise
        attempt.rollback()  # this also restores the setting
        return None
    attempt.commit()
    return found


def _planned_rows(connection: Connection, statement: Select[Any]) -> int:
    """The number of rows that PostgreSQL's planner expects."""
    driver: Any = connection.connection.driver_connection
    [[plan]] = driver.execute(f"explain (format json) {readable_sql(statement)}").fetchall()
    return int(plan[0]["Plan"]["Plan Rows"])
