"""Units ↔ tables: each row of a loaded unit is accepted, rejected, replayed or superseded, and none is there twice."""

from __future__ import annotations

from collections.abc import Iterator

from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding
from capsfusion_tasks.warehouse.queries import consistency

_MEND = (
    "restore the warehouse from its backup (docs/operations.md), or fuse the unit's interval again with existing:"
    " replace"
)


def findings(evidence: Evidence, pairs: bool) -> Iterator[Finding]:
    """What is wrong in the tables; ``pairs``: also look each rejected caption up among the accepted ones."""
    with evidence.warehouse.engine.connect() as connection:
        broken = consistency(connection, evidence.scope, pairs=pairs)
    for rule, rows in broken.items():
        for row in rows:
            what = ", ".join(f"{name} {value}" for name, value in row.items() if name != "unit_id")
            yield Finding("tables", str(row["unit_id"]), f"broken: {rule} ({what})", _MEND)
