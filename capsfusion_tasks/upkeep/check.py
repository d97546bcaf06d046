"""Runs all checks, one after the other, and repairs what can be repaired safely."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.upkeep import late_shards, lost_pairs, shards, stored_rows, temporary_files, units
from capsfusion_tasks.upkeep.evidence import Evidence, gather
from capsfusion_tasks.upkeep.findings import Finding
from capsfusion_tasks.upkeep.progress import Doing, counted, unheard
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope

# Longer than any task runs. So no running task needs a file of this age, unless a list or the ledger names the file.
SAFE_AGE = timedelta(hours=6)


@dataclass
class Result:
    """The result of a check: what was checked, and what is wrong.

    ``rows``: for each side (``laion_2b``, ``laion_coco``), how many rows of pulled shards are in buckets, and how many
    were dropped, by reason.

    Three fields are filled only if pairs were checked. ``paired``: for each side, the number of rows that have a
    partner. ``pairs``: for each fusion_id, the numbers of loaded, planned and lost pairs. ``advice``: how to fuse pairs
    that were left out.
    """

    looked_at: dict[str, int]
    rows: dict[str, dict[str, int]]
    findings: list[Finding]
    paired: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, dict[str, int]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    repaired: dict[int, str] = field(default_factory=dict)  # index in ``findings`` → what the repair did

    @property
    def left(self) -> list[Finding]:
        """The findings that were not repaired."""
        return [finding for number, finding in enumerate(self.findings) if number not in self.repaired]

    def as_dict(self) -> dict[str, Any]:
        """The result in the form that ``--format json`` prints."""
        findings = [
            {**finding.as_dict(), "repaired": self.repaired.get(number)} for number, finding in enumerate(self.findings)
        ]
        return {
            "looked_at": self.looked_at,
            "rows": self.rows,
            "paired": self.paired,
            "pairs": self.pairs,
            "advice": self.advice,
            "findings": findings,
        }

    def lines(self) -> Iterator[str]:
        """The lines to print on a terminal: what was checked, then the findings."""
        yield from self._counts()
        yield from self.verdict()

    def _counts(self) -> Iterator[str]:
        yield "checked " + ", ".join(f"{count} {name}" for name, count in self.looked_at.items())
        for side, counts in self.rows.items():
            parts = " + ".join(f"{count} {name}" for name, count in counts.items())
            yield f"{side}: {sum(counts.values())} rows of pulled shards = {parts}"
            if side in self.paired:
                alone = counts["in buckets"] - self.paired[side]
                yield f"{side}: {self.paired[side]} rows are paired, {alone} have no partner yet or repeat another row"
        for fusion_id, counts in self.pairs.items():
            yield f"pairs under fusion {fusion_id}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
        yield from self.advice

    def verdict(self) -> Iterator[str]:
        """Lines with the findings, each with its repair."""
        for number, finding in enumerate(self.findings):
            yield f"{finding.rule}: {finding.where}: {finding.what}"
            done = self.repaired.get(number)
            yield f"    repaired: {done}" if done else f"    to repair it: {finding.mend}"
        yield f"{len(self.findings)} findings, {len(self.repaired)} repaired" if self.findings else "nothing is wrong"


def check(
    context: Context,
    scope: Scope = EVERYTHING,
    *,
    footers: bool = False,
    pairs: bool = False,
    sources: bool = False,
    repair: bool = False,
    safe_age: timedelta = SAFE_AGE,
    doing: Doing = unheard,
) -> Result:
    """Check all units and shards, or those in ``scope``.

    A check of an interval reads only the files of this interval. A check of everything also finds files that belong to
    no shard and no unit.

    ``footers``: open every bucket file, to count its rows. ``pairs``: join all buckets again, and look up each pair.
    ``sources``: list the sources again, and look for shards that no run has listed. ``repair``: repair what can be
    repaired safely. This function ignores files younger than ``safe_age``, because a running task may own them. It
    raises InputError for ``pairs`` with an interval. ``doing`` is called with messages about the progress.
    """
    if pairs and scope.interval is not None:
        raise InputError("the captions of a pair can be from two intervals: run --pairs without --start and --end")
    parts = context.settings, context.storage, context.warehouse
    evidence = gather(*parts, scope, safe_age, all_lists=sources, doing=doing)
    rows = {side: dict(counts) for side, counts in shards.rows(evidence).items()}
    result = Result(_looked_at(evidence), rows, [*_findings(evidence, footers, pairs)])
    if sources:
        doing("listing the sources")
        result.findings += late_shards.findings(evidence)
    if pairs:
        accounts, paired = lost_pairs.accounts(evidence)
        result.paired = dict(paired)
        for account in accounts:
            result.pairs[account.fusion_id] = account.as_dict()
            result.advice += account.advice
            result.findings += lost_pairs.lost(account)
    if repair:
        _repair(result, doing)
    return result


def _findings(evidence: Evidence, footers: bool, pairs: bool) -> Iterator[Finding]:
    yield from temporary_files.findings(evidence)
    yield from shards.findings(evidence, footers)
    yield from lost_pairs.findings(evidence)
    yield from units.findings(evidence)
    yield from stored_rows.findings(evidence, pairs=pairs or evidence.scope.interval is not None)


def _looked_at(evidence: Evidence) -> dict[str, int]:
    return {
        "intervals": len(evidence.lists),
        "shards": sum(len(shards) for shards in evidence.lists.values()),
        "units": len(evidence.units),
        "files": len(evidence.listing),
    }


def _repair(result: Result, doing: Doing) -> None:
    findings = counted(result.findings, doing, "repairing", len(result.findings))
    for number, finding in enumerate(findings):
        if finding.repair is None:
            continue
        try:
            result.repaired[number] = finding.repair()
        except (NotReadyError, FileNotFoundError):  # a task is working on this unit or shard, or has repaired it
            continue
