"""The ledger's measurements of speed, and the planned work that waits."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Double, and_, func, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.tables import work_units

RECENT_UNITS = 20  # units that a measurement covers


class Spread(NamedTuple):
    """The 10th, 50th and 90th percentile."""

    low: float
    median: float
    high: float


class Measured(NamedTuple):
    """The last units of a fusion: their number, estimated tokens per second of a device, and real over estimated
    tokens."""

    units: int
    tokens_per_second: Spread
    tokens_real: Spread | None


def measured(connection: Connection, fusion_id: str) -> Measured | None:
    """None before the first unit is fused."""
    units = work_units.c
    recent = (
        select(
            (units.tokens_estimated / units.gpu_seconds).label("rate"),
            ((units.prompt_tokens + units.caption_tokens) / func.nullif(units.tokens_estimated, 0)).label("real"),
        )
        .where(units.fusion_id == fusion_id, units.gpu_seconds > 0, units.tokens_estimated > 0)
        # A replay under the same fusion keeps most captions, so its GPU time says nothing about its rows.
        .where(units.replay_of.is_distinct_from(units.fusion_id))
        .order_by(units.created_at.desc(), units.unit_id.desc())
        .limit(RECENT_UNITS)
        .subquery()
    )
    tenths = func.percentile_cont(literal([0.1, 0.5, 0.9], ARRAY(Double)))
    spreads = (tenths.within_group(column.cast(Double)) for column in (recent.c.rate, recent.c.real))
    count, rate, real = connection.execute(select(func.count(), *spreads)).one()
    if not count:
        return None
    return Measured(count, Spread(*rate), Spread(*real) if real else None)


def unfused(connection: Connection, fusion_id: str, within: Interval | None = None) -> tuple[int, int]:
    """Rows and estimated tokens of units that are not fused; a unit that was begun counts in full."""
    sums = (func.coalesce(func.sum(column), 0) for column in (work_units.c.rows_in, work_units.c.tokens_estimated))
    open_states = work_units.c.state.in_(("planned", "fusing", "failed"))
    rows, tokens = connection.execute(select(*sums).where(_of(fusion_id, within), open_states)).one()
    return int(rows), int(tokens)


def pairs_in_units(connection: Connection, fusion_id: str, interval: Interval) -> int:
    """Number of different pairs in the units of an interval, loaded or not."""
    pairs = func.coalesce(func.sum(work_units.c.rows_in - work_units.c.superseded), 0)
    same = and_(work_units.c.interval_start == interval.start, work_units.c.interval_end == interval.end)
    return int(connection.execute(select(pairs).where(work_units.c.fusion_id == fusion_id, same)).scalar_one())


def _of(fusion_id: str, within: Interval | None) -> ColumnElement[bool]:
    inside = (
        true()
        if within is None
        else and_(work_units.c.interval_start >= within.start, work_units.c.interval_end <= within.end)
    )
    return and_(work_units.c.fusion_id == fusion_id, inside)
