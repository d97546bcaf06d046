"""The values that the captions view offers in its filter: fusions, shards (source files), DAG runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.warehouse.ledger_tables import fusions, shards, work_units


@dataclass(frozen=True)
class KnownFusion:
    fusion_id: str
    model: str
    num_beams: int
    dtype: str
    created_at: datetime


def known_fusions(connection: Connection) -> list[KnownFusion]:
    """All fusions (model and settings that made captions), newest first."""
    columns = fusions.c
    statement = select(columns.fusion_id, columns.model, columns.num_beams, columns.dtype, columns.created_at)
    return [KnownFusion(**row) for row in connection.execute(statement.order_by(columns.created_at.desc())).mappings()]


def newest_shards(connection: Connection, limit: int) -> list[str]:
    """Paths of the shards that arrived last, the newest first."""
    statement = select(shards.c.path).where(shards.c.side.in_(PAIRED))
    newest = statement.order_by(shards.c.arrived_at.desc(), shards.c.path).limit(limit)
    return list(dict.fromkeys(connection.scalars(newest)))


def newest_runs(connection: Connection, limit: int) -> list[str]:
    """Ids of the DAG runs whose units were planned last, the newest run first."""
    run = work_units.c.dag_run_id
    statement = select(run).where(run.is_not(None)).group_by(run).order_by(func.max(work_units.c.created_at).desc())
    return list(connection.scalars(statement.limit(limit)))
