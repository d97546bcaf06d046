"""Counts rejected captions, and formats the total and the number for each reason as one line of text."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from capsfusion_tasks.warehouse.caption_tables import rejected_captions
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope


def rejected_count(connection: Connection, scope: Scope = EVERYTHING) -> int:
    """Number of rejected captions of the units in ``scope``, without captions that were replayed or replaced."""
    units = select(work_units.c.unit_id).where(scope.clause())
    statement = select(func.count()).select_from(rejected_captions).where(rejected_captions.c.unit_id.in_(units))
    return int(connection.execute(statement).scalar_one())


def reasons_line(rejected: int, reasons: dict[str, int]) -> str:
    """A line with the number of captions for each reason. A caption with several reasons counts under each reason."""
    listed = " + ".join(f"{count} {reason}" for reason, count in reasons.items())
    total = sum(reasons.values())
    several = "; a caption can have several reasons" if total > rejected else ""
    captions, found = "caption" if rejected == 1 else "captions", "reason" if total == 1 else "reasons"
    return f"rejected: {rejected} {captions}, {total} {found}: {listed}{several}"
