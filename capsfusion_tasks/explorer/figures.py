"""A run in figures, or everything: the funnel, the rate, and samples of what came out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from capsfusion_tasks.settings import Interval
from capsfusion_tasks.warehouse import funnels, plans, queries
from capsfusion_tasks.warehouse.queries import Scope


@dataclass(frozen=True)
class RunKey:
    """A DAG run, a replay, or what was made of an interval without Airflow; nothing given: everything."""

    dag_run_id: str | None = None
    replay: str | None = None
    interval: Interval | None = None


def figures(connection: Connection, key: RunKey) -> dict[str, Any] | None:
    """None: nothing was planned for this run."""
    scope = Scope(interval=key.interval, dag_run_id=key.dag_run_id, replay=key.replay)
    interval = key.interval
    if key.dag_run_id is not None:
        interval = funnels.interval_of_run(connection, key.dag_run_id)
    units = queries.unit_counts(connection, scope)
    if scope != queries.EVERYTHING and interval is None and not any(units.values()):
        return None
    shard_ids: list[str] | None = None if scope == queries.EVERYTHING else []  # a replay has none
    if interval is not None:
        shard_ids = funnels.interval_shards(connection, interval)
    found = plans.planned_pairs(connection, scope)
    width, bins = funnels.throughput(connection, scope)
    return {
        "dag_run_id": key.dag_run_id,
        "replay": key.replay,
        "interval": interval and interval.model_dump(),
        "sides": {side: asdict(one) for side, one in queries.shards_summary(connection, shard_ids).items()},
        "found": found and asdict(found),
        "units": units,
        "summary": asdict(queries.run_summary(connection, scope)),
        "rate": asdict(funnels.rate(connection, scope)),
        "throughput": {"bin_seconds": width, "bins": bins},
        "distributions": asdict(funnels.distributions(connection, scope)),
        "histogram_ends": funnels.HISTOGRAMS,
        "failed_shards": queries.failed_shards(connection, shard_ids),
        "failed_units": queries.failed_units(connection, scope),
    }
