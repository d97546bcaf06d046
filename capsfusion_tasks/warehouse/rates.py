"""Reads from the table of work units: measured speeds, and numbers of planned rows and tokens that are not fused."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Double, and_, case, func, literal, or_, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.ledger_tables import work_units

RECENT_UNITS = 20  # a measurement covers at most this many of the newest work units


class Spread(NamedTuple):
    """The 10th, 50th and 90th percentile of a figure, over the measured work units."""

    low: float
    median: float
    high: float


class Tokens(NamedTuple):
    """Numbers of fused rows, and of tokens in their prompts and captions."""

    rows: int
    prompt: int
    caption: int


class Measured(NamedTuple):
    """Measurements of the newest units of a fusion (model and settings). ``tokens_per_second``: speed of one device.

    ``tokens_real``: ratio of counted to estimated tokens. ``fused``: sums over the units whose tokens were counted.
    """

    units: int
    tokens_per_second: Spread
    tokens_real: Spread | None
    fused: Tokens | None = None


def fuses_all_rows() -> ColumnElement[bool]:
    """Whether all rows of a unit are fused, as SQL on the table ``work_units``.

    False for a unit of a replay whose new captions have the same fusion_id as the rejected captions, unless the unit's
    ``existing`` is "replace". Such a unit fuses only the few rows whose fusing had failed, and validates the captions
    of the other rows again. Its speed cannot be measured: the tokens of the validated captions were counted in earlier
    units, and the unit's device seconds are only those of the few fused rows.
    """
    units = work_units.c
    return or_(units.replay_of.is_distinct_from(units.fusion_id), units.existing == "replace")


def measured(connection: Connection, fusion_id: str) -> Measured | None:
    """The measured speed of the newest units of a fusion. None before the fusion's first unit is fused."""
    units = work_units.c
    real = func.nullif(units.prompt_tokens + units.caption_tokens, 0)
    recent = (
        select(
            # Use counted tokens. With estimated tokens, a wrong estimate would make the rate wrong, and with the rate
            # all later estimates of GPU hours.
            (func.coalesce(real, units.tokens_estimated) / units.gpu_seconds).label("rate"),
            (real / func.nullif(units.tokens_estimated, 0)).label("real"),
            case((real.is_not(None), units.rows_in)).label("rows"),
            case((real.is_not(None), units.prompt_tokens)).label("prompt"),
            case((real.is_not(None), units.caption_tokens)).label("caption"),
        )
        .where(units.fusion_id == fusion_id, units.gpu_seconds > 0, units.tokens_estimated > 0)
        .where(fuses_all_rows())
        .order_by(units.created_at.desc(), units.unit_id.desc())
        .limit(RECENT_UNITS)
        .subquery()
    )
    tenths = func.percentile_cont(literal([0.1, 0.5, 0.9], ARRAY(Double)))
    spreads = (tenths.within_group(column.cast(Double)) for column in (recent.c.rate, recent.c.real))
    sums = (func.sum(recent.c[name]) for name in Tokens._fields)
    count, rate, ratio, *fused = connection.execute(select(func.count(), *spreads, *sums)).one()
    if not count:
        return None
    if not ratio:
        return Measured(count, Spread(*rate), None)
    return Measured(count, Spread(*rate), Spread(*ratio), Tokens(*map(int, fused)))


def unfused(
    connection: Connection, fusion_id: str, within: Interval | None = None, *, longest_row: int
) -> tuple[int, int]:
    """Numbers of rows and estimated tokens in units that are not fused. A started unit counts with all its rows.

    A row counts as at most ``longest_row`` tokens, because earlier versions of this program estimated too many tokens
    for very long alt texts.
    """
    units = work_units.c
    tokens = func.least(units.tokens_estimated, units.rows_in * longest_row)
    sums = (func.coalesce(func.sum(column), 0) for column in (units.rows_in, tokens))
    open_states = work_units.c.state.in_(("planned", "fusing", "failed"))
    rows, tokens = connection.execute(select(*sums).where(_of(fusion_id, within), open_states)).one()
    return int(rows), int(tokens)


def pairs_in_units(connection: Connection, fusion_id: str, interval: Interval) -> int:
    """Number of different pairs in the units of an interval, whether the units are loaded or not.

    Leaves out units that will replace captions but are not loaded yet: some of their pairs may be in loaded units, too,
    and would count twice.
    """
    pairs = func.coalesce(func.sum(work_units.c.rows_in - work_units.c.superseded), 0)
    same = and_(work_units.c.interval_start == interval.start, work_units.c.interval_end == interval.end)
    counted = or_(work_units.c.state == "loaded", work_units.c.existing != "replace")
    return int(connection.execute(select(pairs).where(work_units.c.fusion_id == fusion_id, same, counted)).scalar_one())


def _of(fusion_id: str, within: Interval | None) -> ColumnElement[bool]:
    inside = (
        true()
        if within is None
        else and_(work_units.c.interval_start >= within.start, work_units.c.interval_end <= within.end)
    )
    return and_(work_units.c.fusion_id == fusion_id, inside)
