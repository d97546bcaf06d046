"""Finds temporary files that a killed process left behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import REPAIR, Finding


def findings(evidence: Evidence) -> Iterator[Finding]:
    if evidence.scope.interval is not None:  # a temporary file belongs to no interval
        return
    for file in evidence.listing:
        if file.unpublished and evidence.old(file):
            what = f"{file.size} bytes left by a killed process, last written {file.modified:%Y-%m-%d %H:%M} UTC"
            yield Finding("temporary-file", file.path, what, REPAIR, partial(_delete, evidence, file.path))


def _delete(evidence: Evidence, path: str) -> str:
    evidence.storage.delete(path)
    return "deleted"
