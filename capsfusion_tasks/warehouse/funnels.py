"""Figures of runs for the captions view: numbers of rows, speed, quality.

Numbers of rows and speed are sums over the ledger. The ledger has only one row for each shard (source file) and each
unit (the pairs that one fuse task works on), so the sums are quick even if there are many captions.
Reasons and scores come from a sample of captions: the first rows of several units. A unit's rows are stored in the
order of their pair_id, which is a digest, so its first rows are a random sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, and_, cast, func, lateral, or_, select, true, union_all
from sqlalchemy.dialects.postgresql import TIMESTAMP, TSTZRANGE

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.ledger_tables import plans, shards, work_units
from capsfusion_tasks.warehouse.queries import Scope

SAMPLED_UNITS = 20
SAMPLED_ROWS = 100  # number of rows to sample from each unit
HISTOGRAM_BINS = 20
# Score → upper end of its histogram; the lower end is 0.
HISTOGRAMS = {
    "caption_words": 60,
    "fact_recall": 1,
    "raw_recall": 1,
    "synthetic_recall": 1,
    "novelty": 1,
    "invention": 1,
}
# The bins of the chart of loaded rows over time have the smallest width in _BIN_SECONDS with which _BINS bins cover the
# whole time.
_BINS = 60
_BIN_SECONDS = (60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400)

_units = work_units.c


@dataclass(frozen=True)
class Run:
    """Sums over the units of one fusion in a run: a DAG run, a replay, or an interval that ran without Airflow."""

    dag_run_id: str | None
    replay: str | None
    fusion_id: str
    interval_start: datetime | None
    interval_end: datetime | None
    planned_at: datetime
    loaded_at: datetime | None
    units: int
    units_loaded: int
    units_failed: int
    rows_in: int
    accepted: int | None
    rejected: int | None
    gpu_seconds: float | None


def recent_runs(connection: Connection, before: datetime | None = None, limit: int = 30) -> list[Run]:
    """The ``limit`` runs that were planned last, the latest first. ``before``: only runs planned before this time."""
    planned = func.max(_units.created_at)
    statement = (
        select(
            _units.dag_run_id,
            _units.replay,
            _units.fusion_id,
            _units.interval_start,
            _units.interval_end,
            planned.label("planned_at"),
            func.max(_units.loaded_at).label("loaded_at"),
            func.count().label("units"),
            func.count().filter(_units.state == "loaded").label("units_loaded"),
            func.count().filter(_units.state == "failed").label("units_failed"),
            *(
                cast(func.sum(_units[name]), _units.rows_in.type).label(name)
                for name in ("rows_in", "accepted", "rejected")
            ),
            func.sum(_units.gpu_seconds).label("gpu_seconds"),
        )
        .group_by(_units.dag_run_id, _units.replay, _units.fusion_id, _units.interval_start, _units.interval_end)
        .order_by(planned.desc(), _units.interval_start.desc(), _units.dag_run_id)
        .limit(limit)
    )
    if before is not None:
        statement = statement.having(planned < before)
    return [Run(**row) for row in connection.execute(statement).mappings()]


def interval_of_run(connection: Connection, dag_run_id: str) -> Interval | None:
    """The data interval of a DAG run. None for a replay, and for a run that has planned nothing."""
    either = (
        select(table.c.interval_start, table.c.interval_end).where(
            table.c.dag_run_id == dag_run_id, table.c.interval_start.is_not(None)
        )
        for table in (work_units, plans)
    )
    found = connection.execute(union_all(*either).limit(1)).first()
    return None if found is None else Interval(start=found[0], end=found[1])


def last_fusion(connection: Connection, scope: Scope) -> str | None:
    """The fusion_id of the last plan in ``scope``, even if that plan found no pair to fuse."""
    either: list[Select[Any]] = [
        select(_units.fusion_id, func.max(_units.created_at).label("planned_at"))
        .where(scope.clause())
        .group_by(_units.fusion_id)
    ]
    if scope.replay is None:
        either.append(
            select(plans.c.fusion_id, func.max(plans.c.planned_at))
            .where(scope.clause(plans))
            .group_by(plans.c.fusion_id)
        )
    planned = union_all(*either).subquery().c
    found: str | None = connection.scalar(select(planned.fusion_id).order_by(planned.planned_at.desc()).limit(1))
    return found


def interval_shards(connection: Connection, interval: Interval) -> list[str]:
    """Ids of the interval's shards: those that arrived in the interval, and late shards that were assigned to it.

    A late shard appeared after its own interval had been listed. It counts only for the interval it is assigned to.
    """
    arrived, adopted = shards.c.arrived_at, shards.c.adopted_by
    in_time = and_(arrived >= interval.start, arrived < interval.end, adopted.is_(None))
    mine = shards.c.side.in_(PAIRED), or_(in_time, adopted == interval.key)
    return list(connection.scalars(select(shards.c.shard_id).where(*mine)))


@dataclass(frozen=True)
class Progress:
    """The speed of loading, in rows per second of wall time, and the estimated time until all rows are loaded."""

    rows_per_second: float | None
    seconds_left: float | None


def progress(connection: Connection, scope: Scope) -> Progress:
    """The speed of loading the units in ``scope``. Both fields are None before the first load.

    Counts only times between the planning and the load of a loaded unit, so idle days before a rerun do not count.
    """
    loaded, waiting = connection.execute(
        select(
            func.coalesce(func.sum(_units.rows_in).filter(_units.state == "loaded"), 0),
            func.coalesce(func.sum(_units.rows_in).filter(_units.state != "loaded"), 0),
        ).where(scope.clause())
    ).one()
    at_work = func.range_agg(func.tstzrange(_units.created_at, func.greatest(_units.created_at, _units.loaded_at)))
    done = (scope.clause(), _units.loaded_at.is_not(None))
    span = select(func.unnest(at_work, type_=TSTZRANGE).label("span")).where(*done).subquery().c.span
    length = func.extract("epoch", func.upper(span, type_=TIMESTAMP) - func.lower(span, type_=TIMESTAMP))
    seconds = float(connection.scalar(select(func.coalesce(func.sum(length), 0.0))) or 0)
    loaded, waiting = int(loaded), int(waiting)
    if not loaded or seconds <= 0:
        return Progress(None, None)
    return Progress(loaded / seconds, waiting * seconds / loaded if waiting else None)


@dataclass(frozen=True)
class ThroughputBin:
    """Sums over the units that were loaded in one bin (span of time) of the chart. ``start``: when the bin begins."""

    start: datetime
    units: int
    rows: int
    gpu_seconds: float | None


@dataclass(frozen=True)
class Throughput:
    bin_seconds: int
    bins: list[ThroughputBin]  # only bins in which a unit was loaded


def throughput(connection: Connection, scope: Scope) -> Throughput:
    """Loaded units, rows and GPU seconds over time, in bins of equal width (a minute to a week)."""
    loaded = _units.loaded_at
    first, last = connection.execute(select(func.min(loaded), func.max(loaded)).where(scope.clause())).one()
    if first is None:
        return Throughput(_BIN_SECONDS[0], [])
    span = (last - first).total_seconds()
    width = next((each for each in _BIN_SECONDS if span <= each * _BINS), _BIN_SECONDS[-1])
    start = func.date_bin(timedelta(seconds=width), loaded, first.replace(hour=0, minute=0, second=0, microsecond=0))
    statement = (
        select(
            start.label("start"),
            func.count().label("units"),
            cast(func.sum(_units.rows_in), _units.rows_in.type).label("rows"),
            func.sum(_units.gpu_seconds).label("gpu_seconds"),
        )
        .where(scope.clause(), loaded.is_not(None))
        .group_by(start)
        .order_by(start)
    )
    return Throughput(width, [ThroughputBin(**row) for row in connection.execute(statement).mappings()])


@dataclass(frozen=True)
class Distributions:
    """Counts in a sample of captions. ``accepted``, ``rejected``: numbers of captions in the sample.

    ``scores``: for each score, the number of captions in each of HISTOGRAM_BINS bins. Leaves out captions without the
    score.
    """

    accepted: int
    rejected: int
    reasons: dict[str, int]  # reason → number of rejected captions
    flags: dict[str, int]  # flag → number of accepted captions
    scores: dict[str, list[int]]


def distributions(connection: Connection, scope: Scope) -> Distributions:
    accepted = _sample(connection, fused_captions, scope, [*HISTOGRAMS, "flags"])
    rejected = _sample(connection, rejected_captions, scope, ["reasons"])
    return Distributions(
        accepted=len(accepted),
        rejected=len(rejected),
        reasons=_frequencies(row.reasons for row in rejected),
        flags=_frequencies(row.flags for row in accepted),
        scores={name: _histogram([getattr(row, name) for row in accepted], end) for name, end in HISTOGRAMS.items()},
    )


def _sample(connection: Connection, captions: Table, scope: Scope, columns: Sequence[str]) -> Sequence[Row[Any]]:
    """The first rows of the newest units in ``scope``."""
    some = (
        select(_units.unit_id)
        .where(scope.clause(), _units.state == "loaded")
        .order_by(_units.loaded_at.desc(), _units.unit_id)
        .limit(SAMPLED_UNITS)
        .subquery()
    )
    mine = select(*(captions.c[name] for name in columns)).where(captions.c.unit_id == some.c.unit_id)
    rows = lateral(mine.limit(SAMPLED_ROWS))
    return connection.execute(select(*rows.c).select_from(some.join(rows, true()))).all()


def _frequencies(lists: Iterable[Sequence[str]]) -> dict[str, int]:
    return dict(Counter(chain.from_iterable(lists)).most_common())


def _histogram(values: Sequence[float | None], end: float) -> list[int]:
    """The number of values in each bin. The last bin also counts values of ``end`` and above."""
    counts = [0] * HISTOGRAM_BINS
    for value in values:
        if value is not None:
            counts[min(int(value * HISTOGRAM_BINS / end), HISTOGRAM_BINS - 1)] += 1
    return counts
