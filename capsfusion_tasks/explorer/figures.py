"""A run in figures, or everything: the funnel, the rate, and samples of what came out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from capsfusion_tasks.settings import Interval
from capsfusion_tasks.warehouse import funnels, queries
from capsfusion_tasks.warehouse.queries import Scope


@dataclass(frozen=True)
class RunKey:
    """A DAG run, or what was made of an interval without Airflow; nothing given: everything."""

    dag_run_id: str | None = None
    interval: Interval | None = None


def figures(connection: Connection, key: RunKey) -> dict[str, Any] | None:
    """None: the ledger has no unit of this run."""
    interval = key.interval
    if key.dag_run_id is not None and (interval := funnels.interval_of_run(connection, key.dag_run_id)) is None:
        return None
    scope = Scope(interval=key.interval, dag_run_id=key.dag_run_id)
    shard_ids = None if interval is None else funnels.interval_shards(connection, interval)
    width, bins = funnels.throughput(connection, scope)
    return {
        "dag_run_id": key.dag_run_id,
        "interval": interval and interval.model_dump(),
        "sides": {side: asdict(one) for side, one in queries.shards_summary(connection, shard_ids).items()},
        "units": queries.unit_counts(connection, scope),
        "summary": asdict(queries.run_summary(connection, scope)),
        "rate": asdict(funnels.rate(connection, scope)),
        "throughput": {"bin_seconds": width, "bins": bins},
        "distributions": asdict(funnels.distributions(connection, scope)),
        "histogram_ends": funnels.HISTOGRAMS,
        "failed_shards": queries.failed_shards(connection, shard_ids),
        "failed_units": queries.failed_units(connection, scope),
    }
