"""Sums over the ledger (tables of shards and work units) and the tables of captions.

`capsfusion status`, the report of a run and the captions view show these sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    case,
    func,
    select,
    true,
)

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.arrays import among
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.ledger_tables import UNIT_STATES, shards, work_units
from capsfusion_tasks.warehouse.rates import fuses_all_rows


@dataclass(frozen=True)
class Scope:
    """A selection of work units: those that meet all given conditions. Without conditions, all units."""

    interval: Interval | None = None
    dag_run_id: str | None = None
    fusion_id: str | None = None
    replay: str | None = None
    unit_ids: Sequence[str] | None = None

    def clause(self, table: Table = work_units) -> ColumnElement[bool]:
        """The conditions as SQL on the table ``work_units``.

        They also work on the table ``plans`` if the scope has no ``replay`` and no ``unit_ids``.
        """
        units = table.c
        conditions: list[ColumnElement[bool]] = [true()]
        if self.interval is not None:
            conditions += [units.interval_start >= self.interval.start, units.interval_end <= self.interval.end]
        if self.dag_run_id is not None:
            conditions.append(units.dag_run_id == self.dag_run_id)
        if self.fusion_id is not None:
            conditions.append(units.fusion_id == self.fusion_id)
        if self.replay is not None:
            conditions.append(units.replay == self.replay)
        if self.unit_ids is not None:
            conditions.append(among(units.unit_id, self.unit_ids))
        return and_(*conditions)


EVERYTHING = Scope()


@dataclass(frozen=True)
class RunSummary:
    """Sums over work units. ``rows_in`` = ``accepted`` + ``rejected`` + ``waiting``.

    ``rows_per_second``: rows per second of GPU time. This rate, ``prompt_tokens`` and ``caption_tokens`` leave out
    units that do not fuse all their rows (``rates.fuses_all_rows``).
    """

    units: int
    rows_in: int
    accepted: int
    rejected: int
    waiting: int  # rows of units that are not loaded
    superseded: int  # captions that later units replaced
    prompt_tokens: int
    caption_tokens: int
    gpu_seconds: float
    rows_per_second: float | None


def run_summary(connection: Connection, scope: Scope = EVERYTHING) -> RunSummary:
    units, fused = work_units.c, fuses_all_rows()
    sums = {
        "rows_in": units.rows_in,
        "accepted": units.accepted,
        "rejected": units.rejected,
        "waiting": case((units.state == "loaded", 0), else_=units.rows_in),
        "superseded": units.superseded,
        "prompt_tokens": case((fused, units.prompt_tokens)),
        "caption_tokens": case((fused, units.caption_tokens)),
        "gpu_seconds": units.gpu_seconds,
        "seconds": case((fused, units.gpu_seconds)),
        "timed": case((and_(fused, units.gpu_seconds.is_not(None)), units.rows_in)),
    }
    statement = select(
        func.count().label("units"), *(func.coalesce(func.sum(column), 0).label(name) for name, column in sums.items())
    )
    found = dict(connection.execute(statement.where(scope.clause())).mappings().one())
    seconds, timed, gpu_seconds = (float(found.pop(name)) for name in ("seconds", "timed", "gpu_seconds"))
    counts = {name: int(value) for name, value in found.items()}
    return RunSummary(**counts, gpu_seconds=gpu_seconds, rows_per_second=timed / seconds if seconds else None)


def unit_counts(connection: Connection, scope: Scope = EVERYTHING) -> dict[str, int]:
    """State → number of units. Has all states, in the order in which a unit goes through them."""
    statement = select(work_units.c.state, func.count()).where(scope.clause()).group_by(work_units.c.state)
    found = {row[0]: row[1] for row in connection.execute(statement)}
    return {state: found.get(state, 0) for state in UNIT_STATES}


def failed_units(
    connection: Connection, scope: Scope = EVERYTHING, limit: int | None = None
) -> list[tuple[str, int, str]]:
    """Units that failed, as (unit_id, tries, error)."""
    units = work_units.c
    statement = select(units.unit_id, units.tries, units.error).where(scope.clause(), units.state == "failed")
    return [tuple(row) for row in connection.execute(statement.order_by(units.unit_id).limit(limit))]


def rejections_by_reason(connection: Connection, scope: Scope = EVERYTHING) -> dict[str, int]:
    """Reason → number of rejected captions, most frequent first. A caption with two reasons counts under both."""
    each = select(func.unnest(rejected_captions.c.reasons).label("reason")).where(of_units(rejected_captions, scope))
    reason, count = each.subquery().c.reason, func.count()
    statement = select(reason, count).group_by(reason).order_by(count.desc(), reason)
    return {row[0]: row[1] for row in connection.execute(statement)}


@dataclass(frozen=True)
class Rescued:
    """Captions of a lower beam of the beam search, accepted in place of the best beam's rejected caption.

    ``reasons``: reason why the best beam was rejected → number of captions.
    """

    captions: int
    reasons: dict[str, int]


def rescued(connection: Connection, scope: Scope = EVERYTHING) -> Rescued:
    """The rescued captions of the units in ``scope``.

    If a best beam was rejected for two reasons, the rescued caption counts under both reasons.
    """
    captions = fused_captions.c
    mine = and_(captions.rescued_from.is_not(None), of_units(fused_captions, scope))
    each = select(func.unnest(captions.rescued_from).label("reason")).where(mine).subquery().c.reason
    by_reason = select(each, func.count()).group_by(each).order_by(func.count().desc(), each)
    total = connection.execute(select(func.count()).select_from(fused_captions).where(mine)).scalar_one()
    return Rescued(int(total), {row[0]: row[1] for row in connection.execute(by_reason)})


def replayed_counts(connection: Connection, scope: Scope = EVERYTHING) -> tuple[int, int]:
    """How many captions of the units in ``scope`` were moved to ``replayed_captions`` by replays, and how many passed.

    A caption passed if the replay's new caption of the same pair was accepted. A replay with another fusion_id also
    moves captions that did not pass. A replay with the same fusion_id moves only captions that passed.
    """
    replayed, fused = replayed_captions.c, fused_captions.c
    new = and_(fused.pair_id == replayed.pair_id, fused.unit_id == replayed.replayed_by)
    statement = (
        select(func.count(), func.count(fused.pair_id))
        .select_from(replayed_captions.outerjoin(fused_captions, new))
        .where(of_units(replayed_captions, scope))
    )
    again, passed = connection.execute(statement).one()
    return int(again), int(passed)


@dataclass(frozen=True)
class AcceptedCaption:
    """The two source captions of a pair, their fused caption, and results of its validation."""

    laion_2b: str
    laion_coco: str
    capsfusion: str
    flags: list[str]
    caption_words: int | None
    raw_recall: float | None


def sample_captions(connection: Connection, n: int, unit_ids: Sequence[str] | None = None) -> list[AcceptedCaption]:
    """A random sample of ``n`` accepted captions. Every call returns the same sample.

    Takes the first captions in the order of pair_id. This order is random, because a pair_id is a digest.
    """
    columns = [fused_captions.c[field.name] for field in fields(AcceptedCaption)]
    mine = of_units(fused_captions, Scope(unit_ids=unit_ids))
    statement = select(*columns).where(mine).order_by(fused_captions.c.pair_id).limit(n)
    return [AcceptedCaption(*row) for row in connection.execute(statement)]


def of_units(captions: Table, scope: Scope) -> ColumnElement[bool]:
    if scope == EVERYTHING:
        return true()
    return captions.c.unit_id.in_(select(work_units.c.unit_id).where(scope.clause()))


@dataclass(frozen=True)
class SideSummary:
    """Counts of the shards of one side: raw captions, synthetic captions or image results (``schemas.Side``)."""

    shards: int
    pulled: int
    failed: int
    rows: int
    dropped: dict[str, int]  # reason → rows


def shards_summary(connection: Connection, shard_ids: Sequence[str] | None = None) -> dict[str, SideSummary]:
    """Side → summary of all shards of this side, or of those in ``shard_ids``."""
    mine = true() if shard_ids is None else among(shards.c.shard_id, shard_ids)
    side, state = shards.c.side, shards.c.state
    pair = func.jsonb_each_text(shards.c.dropped).table_valued("key", "value")
    drops: dict[str, dict[str, int]] = {}
    for name, reason, rows in connection.execute(
        select(side, pair.c.key, func.sum(pair.c.value.cast(shards.c.rows.type)))
        .select_from(shards)
        .join(pair, true())
        .where(mine)
        .group_by(side, pair.c.key)
        .order_by(side, pair.c.key)
    ):
        drops.setdefault(name, {})[reason] = int(rows)
    statement = (
        select(
            side,
            func.count(),
            func.count().filter(state == "pulled"),
            func.count().filter(state == "failed"),
            func.coalesce(func.sum(shards.c.rows), 0),
        )
        .where(mine)
        .group_by(side)
        .order_by(side)
    )
    return {
        name: SideSummary(total, pulled, failed, int(rows), drops.get(name, {}))
        for name, total, pulled, failed, rows in connection.execute(statement)
    }


def failed_shards(connection: Connection, shard_ids: Sequence[str] | None = None) -> list[tuple[str, str, str]]:
    """Shards that could not be read, as (side, path, error)."""
    mine = true() if shard_ids is None else among(shards.c.shard_id, shard_ids)
    statement = select(shards.c.side, shards.c.path, shards.c.error).where(mine, shards.c.state == "failed")
    return [tuple(row) for row in connection.execute(statement.order_by(shards.c.side, shards.c.path))]
