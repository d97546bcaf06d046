"""The table ``plans``. A plan divides the caption pairs of a data interval into work units.

Each row counts the pairs of one plan: all pairs, pairs in the plan's units, and pairs left out, by reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, cast, func, select
from sqlalchemy.dialects.postgresql import insert

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.ledger_tables import plans
from capsfusion_tasks.warehouse.queries import Scope


@dataclass(frozen=True)
class PlannedPairs:
    """Numbers of pairs, summed over plans.

    ``pairs``: all pairs. ``already_fused``: pairs in units of other plans. ``left``: pairs left for a later run.
    ``gone``: pairs that are left out, because their images can no longer be downloaded.
    """

    pairs: int
    already_fused: int
    left: int
    gone: int = 0


def record(
    connection: Connection,
    interval: Interval,
    fusion_id: str,
    dag_run_id: str | None,
    *,
    pairs: int,
    already_fused: int,
    planned: int,
    gone: int = 0,
) -> None:
    """Record a plan. ``pairs`` = ``already_fused`` + ``planned`` + ``gone`` + pairs left for a later run."""
    connection.execute(
        insert(plans).values(
            fusion_id=fusion_id,
            interval_start=interval.start,
            interval_end=interval.end,
            dag_run_id=dag_run_id,
            pairs=pairs,
            already_fused=already_fused,
            planned=planned,
            gone=gone,
        )
    )


def last_plans(connection: Connection) -> dict[tuple[Interval, str], PlannedPairs]:
    """(interval, fusion_id) → numbers of pairs of the last plan for this interval and fusion_id.

    ``already_fused`` includes pairs in units of earlier plans.
    """
    columns = plans.c
    last = select(func.max(columns.plan_id)).group_by(columns.interval_start, columns.interval_end, columns.fusion_id)
    return {
        (Interval(start=row.interval_start, end=row.interval_end), row.fusion_id): PlannedPairs(
            row.pairs, row.already_fused, row.pairs - row.already_fused - row.planned - row.gone, row.gone
        )
        for row in connection.execute(select(plans).where(columns.plan_id.in_(last)))
    }


class WholePlan(NamedTuple):
    """A plan that left no pair out: each of its ``pairs`` is in a unit of this plan or of an earlier one."""

    pairs: int
    planned_at: datetime


def whole_plans(connection: Connection, fusion_id: str) -> dict[Interval, WholePlan]:
    """Interval → its last plan with this fusion_id. Has only intervals whose last plan left no pair out."""
    columns = plans.c
    mine = select(func.max(columns.plan_id)).where(columns.fusion_id == fusion_id)
    last = mine.group_by(columns.interval_start, columns.interval_end)
    whole = select(plans).where(columns.plan_id.in_(last), columns.already_fused + columns.planned == columns.pairs)
    return {
        Interval(start=row.interval_start, end=row.interval_end): WholePlan(row.pairs, row.planned_at)
        for row in connection.execute(whole)
    }


def planned_pairs(connection: Connection, scope: Scope) -> PlannedPairs | None:
    """Numbers of pairs, summed over the last plan of each interval and fusion_id in ``scope``.

    None if there is no plan, or if ``scope`` selects units by replay or by id, because a plan records neither.

    If an interval is planned again, the later plan counts the pairs in units of the earlier plan as already fused. This
    function leaves these pairs out of ``already_fused``.
    """
    if scope.replay is not None or scope.unit_ids is not None:
        return None
    columns = plans.c
    work = (columns.interval_start, columns.interval_end, columns.fusion_id)
    planned_before = func.sum(columns.planned).over(partition_by=work) - columns.planned
    each = (
        select(
            columns.pairs,
            func.greatest(columns.already_fused - planned_before, 0).label("already_fused"),
            (columns.pairs - columns.already_fused - columns.planned - columns.gone).label("left"),
            columns.gone,
            func.row_number().over(partition_by=work, order_by=columns.plan_id.desc()).label("nth"),
        )
        .where(scope.clause(plans))
        .subquery()
    )
    names = ("pairs", "already_fused", "left", "gone")
    sums = [cast(func.sum(each.c[name]), plans.c.pairs.type) for name in names]
    row = connection.execute(select(*sums).where(each.c.nth == 1)).one()
    return None if row[0] is None else PlannedPairs(*row)
