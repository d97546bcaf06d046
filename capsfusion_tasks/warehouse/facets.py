"""Counts the captions that match a filter, by verdict, reason, flag, model, day and score."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Double, Subquery, Table, cast, func, select

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.conditions import Conditions, conditions
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.matches import BINS, Bins, Matches, Stock, matches

ENDS = {"caption_words": 60.0}  # score → upper end of its histogram; 1 for all other scores
_VALUES = 14  # largest number of values to show for a facet


@dataclass(frozen=True)
class Count:
    """A number of matching captions; None if these are so rare that counting took too long. Estimates are rounded."""

    captions: int | None
    exact: bool


@dataclass(frozen=True)
class Value:
    value: str
    captions: int


@dataclass(frozen=True)
class Bin:
    """Number of captions with a score of at least ``start`` and below ``end``. ``end`` is None for the last bin."""

    start: float
    end: float | None
    captions: int


@dataclass(frozen=True)
class Facets:
    """Numbers of captions that match a filter, for each value of each facet (a property, such as the flag).

    ``verdicts`` and ``reasons`` ignore the filter's verdict, so that a user sees what another verdict would select.
    ``exact``: whether the fields after ``exact`` are exact counts. If not, these fields are estimates.
    """

    total: Count
    verdicts: dict[str, Count]
    exact: bool
    reasons: list[Value]
    flags: list[Value]
    fusions: list[Value]
    days: list[Value]  # newest first; captions of replays have no day
    score: str
    bins: list[Bin]


def facets(connection: Connection, wanted: CaptionFilter, score: str) -> Facets:
    """The facets of ``wanted``, with a histogram of ``score``. Raises UnclearFilter like ``conditions``."""
    asked = conditions(connection, wanted)
    bins = Bins(score, ENDS.get(score, 1.0))
    ledger = _Ledger(connection, asked)
    found = {
        verdict: matches(connection, asked, table, ledger.stock(verdict), bins) for verdict, table in _TABLES.items()
    }
    mine = [found[verdict] for verdict, table in _TABLES.items() if table in asked.tables]
    verdicts = {verdict: _count(each) for verdict, each in found.items()}
    of_ledger = not asked.by_row and any(each.basis != "all" for each in mine)
    days, fusions = (
        ledger.values(wanted) if of_ledger else _days_and_fusions(connection, _sum([each.units for each in mine]))
    )
    exact = all(each.basis == "all" for each in (*mine, found["rejected"]))
    return Facets(
        total=_sum_of([verdicts[verdict] for verdict, table in _TABLES.items() if table in asked.tables]),
        verdicts=verdicts,
        exact=exact,
        reasons=_most_frequent(found["rejected"].reasons, exact),
        flags=_most_frequent(_sum([each.flags for each in mine]), exact),
        fusions=_most_frequent(fusions, exact),
        days=[Value(f"{day}", _rounded(days[day], exact)) for day in sorted(days, reverse=True)[:_VALUES]],
        score=score,
        bins=_bins(_sum([each.bins for each in mine]), bins, exact),
    )


_TABLES: dict[str, Table] = {"accepted": fused_captions, "rejected": rejected_captions}


class _Ledger:
    """The ledger's numbers of captions in the work units that a filter selects, by fusion and day."""

    def __init__(self, connection: Connection, asked: Conditions) -> None:
        day = func.date(func.timezone("UTC", work_units.c.interval_start))
        of_verdict = [func.coalesce(func.sum(_stock(verdict)), 0.0).label(verdict) for verdict in _TABLES]
        statement = select(work_units.c.fusion_id, day.label("day"), *of_verdict)
        replayed = _replayed()
        statement = statement.select_from(
            work_units.outerjoin(replayed, replayed.c.replay_unit == work_units.c.unit_id)
        )
        statement = statement.add_columns(func.coalesce(func.sum(replayed.c.rows), 0).label("replayed"))
        rows = connection.execute(statement.where(*asked.units()).group_by(work_units.c.fusion_id, day)).mappings()
        self._rows = [{**row, "rejected": max(0.0, row["rejected"] - float(row["replayed"]))} for row in rows]

    def stock(self, verdict: str) -> Stock:
        return Stock(sum(row[verdict] for row in self._rows), _stock(verdict))

    def values(self, wanted: CaptionFilter) -> tuple[Counter[date], Counter[str]]:
        """The counts of captions by day, and by fusion."""
        days: Counter[date] = Counter()
        fusions: Counter[str] = Counter()
        for row in self._rows:
            captions = wanted.of_accepted * row["accepted"] + wanted.of_rejected * row["rejected"]
            fusions[row["fusion_id"]] += captions
            if row["day"] is not None:
                days[row["day"]] += captions
        return days, fusions


def _stock(verdict: str) -> ColumnElement[float]:
    """SQL for the number of a unit's captions with this verdict, without those that later units have replaced.

    Still includes captions that a replay has moved to ``replayed_captions``.
    """
    unit = work_units.c
    gone = unit.superseded_accepted if verdict == "accepted" else unit.superseded - unit.superseded_accepted
    return cast(unit[verdict] - gone, Double)


def _replayed() -> Subquery:
    """SQL for each unit's number of rejected captions that a replay has moved to ``replayed_captions``."""
    unit_id = replayed_captions.c.unit_id
    return select(unit_id.label("replay_unit"), func.count().label("rows")).group_by(unit_id).subquery()


def _days_and_fusions(connection: Connection, units: Counter[str]) -> tuple[Counter[date], Counter[str]]:
    days: Counter[date] = Counter()
    fusions: Counter[str] = Counter()
    columns = work_units.c
    known = select(columns.unit_id, columns.fusion_id, columns.interval_start).where(columns.unit_id.in_(list(units)))
    start: datetime | None
    for unit_id, fusion_id, start in connection.execute(known):
        fusions[fusion_id] += units[unit_id]
        if start is not None:
            days[start.date()] += units[unit_id]
    return days, fusions


def _count(found: Matches) -> Count:
    exact = found.basis == "all"
    return Count(None if found.total is None else _rounded(found.total, exact), exact)


def _sum_of(counts: list[Count]) -> Count:
    if any(each.captions is None for each in counts):
        return Count(None, False)
    exact = all(each.exact for each in counts)
    return Count(_rounded(sum(each.captions or 0 for each in counts), exact), exact)


def _sum(counters: list[Counter[Any]]) -> Counter[Any]:
    return sum(counters, start=Counter())


def _most_frequent(counter: Counter[str], exact: bool) -> list[Value]:
    return [Value(value, _rounded(count, exact)) for value, count in counter.most_common(_VALUES) if count > 0]


def _bins(counter: Counter[int], bins: Bins, exact: bool) -> list[Bin]:
    width = bins.end / BINS
    return [
        Bin(round(at * width, 6), round((at + 1) * width, 6) if at < BINS - 1 else None, _rounded(counter[at], exact))
        for at in range(BINS)
    ]


def _rounded(captions: float, exact: bool) -> int:
    """``captions`` as an integer. An estimate is rounded to two significant digits; an exact count keeps all digits."""
    if exact or captions < 1:
        return round(captions)
    return round(float(f"{captions:.2g}"))
