"""Reads captions that were judged good or bad, and counts which of them each validation rule rejects or flags.

A judgement is a line of JSON with ``verdict`` ("good", "minor" for a minor fault, or "bad") and ``faults``. The judged
texts are in the same line (laion_2b, laion_coco, capsfusion), or are found by ``key``, a digest of the texts, in a file
of pairs. The project's own judgements contain only keys. A large language model made these judgements, not people.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.validation.rules import DEFAULTS, flags, reasons
from capsfusion_tasks.validation.scores import Fused

OWN = Path(__file__).parent / "data" / "judged.jsonl"
VERDICTS = ("good", "minor", "bad")


@dataclass(frozen=True)
class Judged:
    """A caption with its judgement (``verdict``, ``faults``) and the findings of the rules (``reasons``, ``flags``)."""

    fused: Fused
    verdict: str
    faults: list[str]
    sample: str  # how the caption was chosen for judging, for example "held out"; "" if unknown
    reasons: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerdictCounts:
    """The numbers of good, minor and bad captions that a rule rejects or flags."""

    counts: Counter[str]

    @property
    def rows(self) -> int:
        return sum(self.counts.values())

    @property
    def precision(self) -> float:
        """Share of bad captions in ``counts``. A minor fault counts as half a bad caption. 0 without any caption."""
        return (self.counts["bad"] + self.counts["minor"] / 2) / self.rows if self.rows else 0.0

    @property
    def strict(self) -> float:
        return self.counts["bad"] / self.rows if self.rows else 0.0


def key(raw: str, synthetic: str, caption: str) -> str:
    """A digest that identifies a caption and its sources without containing their text."""
    return hashlib.blake2b("\n".join((raw, synthetic, caption)).encode(), digest_size=16).hexdigest()


def read_judged(path: Path, pairs: Iterable[tuple[str, ...]] = ()) -> list[Judged]:
    """Read the judgements in ``path``, and apply the rules to their captions.

    Texts come from ``path`` or from ``pairs`` (raw, synthetic, caption). Skips judgements whose texts are in neither.

    Raises InputError for a line that is not a judgement.
    """
    by_key = {key(*pair): pair for pair in pairs}
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            verdict, faults = str(row["verdict"]), list(row.get("faults", []))
            pair = by_key.get(row["key"]) if "key" in row else (row["laion_2b"], row["laion_coco"], row["capsfusion"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}, line {number} is not a judgement ({error!r}): write JSON with verdict, and with laion_2b,"
                " laion_coco and capsfusion, or with key"
            ) from error
        if verdict not in VERDICTS:
            raise InputError(f"{path}, line {number}: verdict {verdict!r}; expected one of {', '.join(VERDICTS)}")
        if pair is None:
            continue
        raw, synthetic, caption = (text or "" for text in pair)
        fused = Fused(raw, synthetic, caption)
        sample = row.get("sample", "")
        found.append(Judged(fused, verdict, faults, sample, reasons(fused, DEFAULTS), flags(fused, DEFAULTS)))
    return found


def verdict_counts(rows: Iterable[Judged]) -> VerdictCounts:
    return VerdictCounts(Counter(row.verdict for row in rows))


def by_code(rows: list[Judged]) -> dict[str, VerdictCounts]:
    """For each reason and flag in ``rows``, the numbers of good, minor and bad captions that have it."""
    codes = dict.fromkeys(code for row in rows for code in [*row.reasons, *row.flags])
    return {code: verdict_counts(row for row in rows if code in row.reasons or code in row.flags) for code in codes}
