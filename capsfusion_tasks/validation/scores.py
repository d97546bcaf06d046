"""The scores that the warehouse keeps beside each caption (``schemas.SCORES``)."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from capsfusion_tasks.validation import facts
from capsfusion_tasks.validation.text import repeated_share, words


@dataclass
class Fused:
    """A fused caption with its two sources: what scores and rules look at, computed once.

    ``lost_facts`` are names and numbers of the raw caption that the caption does not have, ``invented_facts`` those of
    the caption that are in neither source.
    """

    raw: str
    synthetic: str
    caption: str
    finish_reason: str | None = None  # None where it is not known (a file from elsewhere)
    raws_with_caption: int = 1  # different raw captions that got this caption, its own counted

    def __post_init__(self) -> None:
        self.caption_lower = self.caption.lower()
        self.sources_lower = f"{self.raw}\n{self.synthetic}".lower()
        self.raw_words = words(self.raw)
        self.synthetic_words = words(self.synthetic)
        self.caption_words = words(self.caption)
        self.repetition = repeated_share(self.caption_words)
        self.raw_facts = facts.raw_facts(self.raw)
        self.lost_facts = facts.unsaid(self.raw_facts, self.caption_words)
        self.caption_facts = facts.caption_facts(self.caption)
        source_words = self.raw_words + self.synthetic_words
        self.invented_facts = facts.invented(self.caption_facts, self.caption, self.raw, source_words)


def scores(fused: Fused) -> dict[str, float | None]:
    """The columns of ``schemas.SCORES``: shares from 0 to 1 of distinct words, None where there is none to count.

    On the 5,000 published pairs, median and 5th percentile: raw_recall 1.00 and 0.50, synthetic_recall 0.83 and 0.29;
    median and 95th percentile: novelty 0.31 and 0.62, source_overlap 0.08 and 0.40; repetition is 0.07 at the 99th.
    """
    raw, synthetic, caption = set(fused.raw_words), set(fused.synthetic_words), set(fused.caption_words)
    sources = raw | synthetic
    return {
        "raw_recall": _share(raw & caption, raw),
        "synthetic_recall": _share(synthetic & caption, synthetic),
        "fact_recall": _share(fused.raw_facts - fused.lost_facts, fused.raw_facts),
        "novelty": _share(caption - sources, caption),
        "invention": _share(fused.invented_facts, fused.caption_facts),
        "repetition": fused.repetition,
        "source_overlap": _share(raw & synthetic, sources),
        "caption_words": len(fused.caption_words),
    }


def _share(part: AbstractSet[str], whole: AbstractSet[str]) -> float | None:
    return len(part) / len(whole) if whole else None
