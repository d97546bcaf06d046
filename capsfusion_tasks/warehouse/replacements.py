"""Finds out which work units of an unfinished replacement are loaded.

A replacement replaces loaded captions by new ones of the same fusion: the captions of all pairs of an interval (with
existing = replace), or all rejected captions that a replay selects to fuse or validate again. If one run cannot plan
all pairs, further runs continue the replacement. The replacement ends with the run whose plan leaves no pair for
another run. The next run begins another replacement.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import timedelta
from itertools import groupby

from sqlalchemy import Connection, func, select

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Existing, Replay
from capsfusion_tasks.warehouse.ledger import its_units
from capsfusion_tasks.warehouse.ledger_tables import work_units

# If no run has continued a replacement for this long, the next run does not continue it, but begins another one.
ABANDONED_AFTER = timedelta(days=30)


def replaces(work: Interval | Replay, fusion_id: str, existing: Existing) -> bool:
    """Whether the next plan of ``work`` (an interval or a replay) can select pairs of loaded units of ``work``."""
    return existing == "replace" if isinstance(work, Interval) else work.fusion_id == fusion_id


def replaced_units(
    connection: Connection,
    fusion_id: str,
    work: Interval | Replay,
    existing: Existing,
    dropped: Set[str] = frozenset(),
) -> list[str]:
    """The loaded units of the unfinished replacement of ``work``. The next plan leaves out their pairs.

    Empty if there is no unfinished replacement, or if none of its units is loaded. ``dropped``: ids of units that the
    next plan deletes and whose pairs it plans again.
    """
    if not replaces(work, fusion_id, existing):
        return []
    units = work_units.c
    last = func.greatest(units.created_at, units.loaded_at)
    statement = (
        select(
            units.unit_id,
            units.state,
            units.created_at,
            units.leaves_pairs,
            (func.max(last).over() > func.now() - ABANDONED_AFTER).label("continues"),
        )
        .where(its_units(work, fusion_id), units.existing == existing)
        .order_by(units.created_at.desc(), units.unit_id)
    )
    found: list[str] = []
    # One transaction registers all units of a plan, so they have the same ``created_at``.
    for _, group in groupby(connection.execute(statement).all(), key=lambda row: row.created_at):
        planned = list(group)
        left = any(unit.leaves_pairs or unit.unit_id in dropped for unit in planned)
        if not left or not planned[0].continues:
            break
        found += [unit.unit_id for unit in planned if unit.state == "loaded"]
    return found


def is_unfinished(connection: Connection, fusion_id: str, interval: Interval) -> bool:
    """Whether the interval's newest units replace captions, and the plan of these units left pairs for a later run."""
    units = work_units.c
    statement = select(units.existing, units.leaves_pairs).where(its_units(interval, fusion_id))
    last = connection.execute(statement.order_by(units.created_at.desc()).limit(1)).one_or_none()
    return last is not None and last.existing == "replace" and last.leaves_pairs
