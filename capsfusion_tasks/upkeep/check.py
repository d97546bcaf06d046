"""All checks, one after the other, and the repair of what they find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep import captions, pairs, shards, sources, temporary, units
from capsfusion_tasks.upkeep.evidence import Evidence, gather
from capsfusion_tasks.upkeep.findings import Finding
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope

# Longer than any task may take: a file of that age that nobody knows is nobody's.
SAFE_AGE = timedelta(hours=6)


@dataclass
class Result:
    """``looked_at``: how much of each kind; ``rows``: side → what became of the rows of its pulled shards.

    Where pairs were looked for, also ``paired``: side → its rows that have a partner, and ``pairs``: fusion_id → what
    became of its pairs.
    """

    looked_at: dict[str, int]
    rows: dict[str, dict[str, int]]
    findings: list[Finding]
    paired: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    repaired: dict[int, str] = field(default_factory=dict)  # number of the finding → what was done

    @property
    def left(self) -> list[Finding]:
        """What is still wrong."""
        return [finding for number, finding in enumerate(self.findings) if number not in self.repaired]

    def as_dict(self) -> dict[str, Any]:
        findings = [
            {**finding.as_dict(), "repaired": self.repaired.get(number)} for number, finding in enumerate(self.findings)
        ]
        return {
            "looked_at": self.looked_at,
            "rows": self.rows,
            "paired": self.paired,
            "pairs": self.pairs,
            "findings": findings,
        }

    def lines(self) -> Iterator[str]:
        """What was looked at, and what was found."""
        yield from self._account()
        yield from self.verdict()

    def _account(self) -> Iterator[str]:
        yield "looked at " + ", ".join(f"{count} {name}" for name, count in self.looked_at.items())
        for side, counts in self.rows.items():
            parts = " + ".join(f"{count} {name}" for name, count in counts.items())
            yield f"{side}: {sum(counts.values())} rows of pulled shards = {parts}"
            if side in self.paired:
                alone = counts["in buckets"] - self.paired[side]
                yield f"{side}: {self.paired[side]} are paired, {alone} wait for a partner or say what another row says"
        for fusion_id, counts in self.pairs.items():
            yield f"pairs under fusion {fusion_id}: " + ", ".join(f"{count} {name}" for name, count in counts.items())

    def verdict(self) -> Iterator[str]:
        """What was found."""
        for number, finding in enumerate(self.findings):
            yield f"{finding.rule}: {finding.where}: {finding.what}"
            done = self.repaired.get(number)
            yield f"    repaired: {done}" if done else f"    to mend it: {finding.mend}"
        yield f"{len(self.findings)} findings, {len(self.repaired)} repaired" if self.findings else "nothing is wrong"


def check(
    settings: Settings,
    scope: Scope = EVERYTHING,
    *,
    footers: bool = False,
    join: bool = False,
    listings: bool = False,
    repair: bool = False,
    safe_age: timedelta = SAFE_AGE,
) -> Result:
    """Look for what breaks an invariant, in everything or in a scope; ``repair`` does what is safe about it.

    ``footers`` opens every bucket file; ``join`` pairs all buckets again and looks for each pair; ``listings`` looks
    into the sources for shards that came too late for a run. Files younger than ``safe_age`` may be somebody's who is
    at work, and are left alone.
    """
    if join and scope.interval is not None:
        raise InputError("pairs meet across intervals: check them all, without a start and an end")
    storage = Storage(settings.staging_uri)
    with open_warehouse(settings) as warehouse:
        evidence = gather(settings, storage, warehouse, scope, safe_age)
        rows = {side: dict(counts) for side, counts in shards.rows(evidence).items()}
        result = Result(_looked_at(evidence), rows, [*_findings(evidence, footers, join)])
        if listings:
            result.findings += sources.findings(evidence)
        if join:
            accounts, paired = pairs.accounts(evidence)
            result.paired = dict(paired)
            for account in accounts:
                result.pairs[account.fusion_id] = account.as_dict()
                result.findings += pairs.lost(account)
        if repair:
            _repair(result)
    return result


def _findings(evidence: Evidence, footers: bool, join: bool) -> Iterator[Finding]:
    yield from temporary.findings(evidence)
    yield from shards.findings(evidence, footers)
    yield from pairs.findings(evidence)
    yield from units.findings(evidence)
    yield from captions.findings(evidence, pairs=join or evidence.scope.interval is not None)


def _looked_at(evidence: Evidence) -> dict[str, int]:
    return {
        "intervals": len(evidence.lists),
        "shards": sum(len(shards) for shards in evidence.lists.values()),
        "units": len(evidence.units),
        "files": len(evidence.listing),
    }


def _repair(result: Result) -> None:
    for number, finding in enumerate(result.findings):
        if finding.repair is None:
            continue
        try:
            result.repaired[number] = finding.repair()
        except (NotReadyError, FileNotFoundError):  # somebody is at work there now, or has mended it
            continue
