"""Reads trends by day of the data interval: numbers of captions and GPU seconds, from the table of work units.

The reasons for rejection come from a sample of each day's rejected captions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date

from sqlalchemy import BigInteger, Connection, Double, cast, func, lateral, select, true

from capsfusion_tasks.warehouse.caption_tables import rejected_captions
from capsfusion_tasks.warehouse.ledger_tables import work_units

DAYS = 60
_UNITS, _ROWS = 3, 50  # a day's sample: at most so many units, and so many rejected captions of each


@dataclass(frozen=True)
class DayOfFusion:
    """Sums over the loaded units of one day and one fusion (model and settings).

    ``gpu_seconds``: None if no unit's time was measured.
    """

    day: date
    fusion_id: str
    accepted: int
    rejected: int
    gpu_seconds: float | None


@dataclass(frozen=True)
class Trends:
    """Sums, and reasons for rejection, for the newest DAYS days that have loaded units, the oldest day first.

    ``reasons``: day → reason → share of the day's sampled rejected captions that have this reason.
    """

    days: list[DayOfFusion]
    reasons: dict[str, dict[str, float]]


def trends(connection: Connection, fusion_id: str | None = None) -> Trends:
    """The trends of one fusion, or of all fusions if ``fusion_id`` is None."""
    unit = work_units.c
    day = func.date(func.timezone("UTC", unit.interval_start)).label("day")
    mine = [unit.state == "loaded", unit.interval_start.is_not(None)]
    mine += [unit.fusion_id == fusion_id] if fusion_id is not None else []
    newest = select(day).where(*mine).distinct().order_by(day.desc()).limit(DAYS).subquery()
    sums = (
        select(
            day,
            unit.fusion_id,
            cast(func.sum(unit.accepted), BigInteger).label("accepted"),
            cast(func.sum(unit.rejected), BigInteger).label("rejected"),
            cast(func.sum(unit.gpu_seconds), Double).label("gpu_seconds"),
        )
        .where(*mine, day.in_(select(newest.c.day)))
        .group_by(day, unit.fusion_id)
        .order_by(day, unit.fusion_id)
    )
    days = [DayOfFusion(**row) for row in connection.execute(sums).mappings()]
    of_day = func.row_number().over(partition_by=day, order_by=unit.unit_id).label("at")
    numbered = select(day, unit.unit_id, of_day).where(*mine, day.in_(select(newest.c.day))).subquery()
    some = select(numbered.c.day, numbered.c.unit_id).where(numbered.c.at <= _UNITS).subquery()
    first = lateral(
        select(rejected_captions.c.reasons).where(rejected_captions.c.unit_id == some.c.unit_id).limit(_ROWS)
    )
    sampled: Counter[date] = Counter()
    reasons: dict[date, Counter[str]] = {}
    for at, found in connection.execute(select(some.c.day, first.c.reasons).select_from(some.join(first, true()))):
        sampled[at] += 1
        reasons.setdefault(at, Counter()).update(found)
    return Trends(
        days,
        {
            f"{at}": {reason: count / sampled[at] for reason, count in counted.most_common()}
            for at, counted in reasons.items()
        },
    )
