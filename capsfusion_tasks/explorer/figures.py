"""The figures of a run, or of all runs: counts of each stage, speed, and statistics of a sample of captions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse import funnels, plans, queries
from capsfusion_tasks.warehouse.funnels import Distributions, Progress, Throughput
from capsfusion_tasks.warehouse.plans import PlannedPairs
from capsfusion_tasks.warehouse.queries import RunSummary, Scope, SideSummary


@dataclass(frozen=True)
class RunKey:
    """A DAG run, a replay of rejected captions, or an interval that was run without Airflow. All fields None: all runs.

    A run that was repeated with another model or other settings has captions with several fusion_ids. Without
    ``fusion_id``, the run's figures are those of the fusion_id that was planned last.
    """

    dag_run_id: str | None = None
    replay: str | None = None
    interval: Interval | None = None
    fusion_id: str | None = None


@dataclass(frozen=True)
class RunFigures:
    """What the page shows about a run. ``found``: the pairs that planning counted; None before planning."""

    dag_run_id: str | None
    replay: str | None
    interval: Interval | None
    fusion_id: str | None  # None: all fusion_ids
    sides: dict[str, SideSummary]
    found: PlannedPairs | None
    units: dict[str, int]  # state → number of units
    summary: RunSummary
    progress: Progress
    throughput: Throughput
    distributions: Distributions
    histogram_ends: dict[str, int]
    failed_shards: list[tuple[str, str, str]]  # side, path, error
    failed_units: list[tuple[str, int, str]]  # unit_id, tries, error


def figures(connection: Connection, key: RunKey) -> RunFigures | None:
    """The figures of the run. None if neither a data interval nor a work unit is recorded for the run."""
    scope = Scope(interval=key.interval, dag_run_id=key.dag_run_id, replay=key.replay, fusion_id=key.fusion_id)
    if scope != queries.EVERYTHING and scope.fusion_id is None:
        scope = replace(scope, fusion_id=funnels.last_fusion(connection, scope))
    interval = key.interval
    if key.dag_run_id is not None:
        interval = funnels.interval_of_run(connection, key.dag_run_id)
    units = queries.unit_counts(connection, scope)
    if key != RunKey() and interval is None and not any(units.values()):
        return None
    shard_ids: list[str] | None = None if key == RunKey() else []  # None: all shards. []: a replay has no shards
    if interval is not None:
        shard_ids = funnels.interval_shards(connection, interval)
    return RunFigures(
        dag_run_id=key.dag_run_id,
        replay=key.replay,
        interval=interval,
        fusion_id=scope.fusion_id,
        sides=queries.shards_summary(connection, shard_ids),
        found=plans.planned_pairs(connection, scope),
        units=units,
        summary=queries.run_summary(connection, scope),
        progress=funnels.progress(connection, scope),
        throughput=funnels.throughput(connection, scope),
        distributions=funnels.distributions(connection, scope),
        histogram_ends=funnels.HISTOGRAMS,
        failed_shards=queries.failed_shards(connection, shard_ids),
        failed_units=queries.failed_units(connection, scope, limit=10),
    )
