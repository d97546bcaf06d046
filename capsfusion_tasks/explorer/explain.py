"""Explains why rules rejected or flagged a caption: each rule's meaning, the caption's score, the words found."""

from __future__ import annotations

from dataclasses import dataclass

from capsfusion_tasks.explorer.origins import Piece, marked, origins
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.evidence import evidence
from capsfusion_tasks.validation.rules import MEANINGS, REASONS
from capsfusion_tasks.validation.scores import Fused

# Rules that compare a score with a threshold: rule → (name of the score, name of the threshold's setting).
_MEASURED = {
    "too_short": ("caption_words", "min_words"),
    "too_long": ("caption_words", "max_words"),
    "repetition": ("repetition", "repetition_max"),
    "knowledge_lost": ("fact_recall", "fact_recall_min"),
}


@dataclass(frozen=True)
class Finding:
    """What one rule found in a caption.

    ``threshold``: the current threshold of the rule. Validation may have used another threshold for this caption.
    """

    code: str
    rejects: bool
    meaning: str
    found: list[str]  # the words that the rule found; empty for rules about the whole caption
    score: str | None = None
    value: float | None = None
    threshold: float | None = None


def explain(
    texts: tuple[str, str, str], codes: list[str], scores: dict[str, float | None], rules: RuleSettings
) -> tuple[list[Finding], list[Piece]]:
    """A finding for each of ``codes``, and the caption in pieces. Marks the pieces that a rule found.

    ``texts``: raw, synthetic and fused caption. ``codes``: names of the rules that rejected or flagged
    the fused caption.
    """
    raw, synthetic, caption = texts
    fused = Fused(raw, synthetic, caption)
    findings, spans = [], []
    for code in codes:
        mine = evidence(fused, code)
        spans += mine
        score, threshold = _MEASURED.get(code, (None, None))
        findings.append(
            Finding(
                code,
                code in REASONS,
                MEANINGS.get(code, "a rule of an earlier release"),
                list(dict.fromkeys(caption[start:end] for start, end in mine)),
                score,
                scores.get(score) if score else None,
                getattr(rules, threshold) if threshold else None,
            )
        )
    return findings, marked(origins(caption, raw, synthetic), spans)
