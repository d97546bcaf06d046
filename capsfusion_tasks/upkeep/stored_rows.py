"""Checks that the tables of captions have each row of a loaded unit exactly once, unless a later row replaced it."""

from __future__ import annotations

from collections.abc import Iterator

from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding
from capsfusion_tasks.warehouse.consistency import violations

_MEND = (
    "restore the warehouse from its backup (docs/operations.md), or fuse the unit's interval again with the setting"
    " existing: replace"
)


def findings(evidence: Evidence, pairs: bool) -> Iterator[Finding]:
    """Units whose stored rows break a rule. ``pairs``: also check that no pair is both rejected and accepted."""
    evidence.doing("counting captions in the warehouse")
    with evidence.warehouse.engine.connect() as connection:
        for violation in violations(connection, evidence.scope, pairs=pairs):
            what = f"broken: {violation.rule} ({violation.what})"
            yield Finding("tables", violation.unit_id, what, _MEND)
