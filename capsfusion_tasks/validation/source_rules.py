"""Rules about how a caption uses its sources: copies, mere concatenation, lost content, and unrelated sources."""

from __future__ import annotations

import re
from collections.abc import Sequence

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.caption_rules import END_OF_SENTENCE
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import contains

_SIDE_BY_SIDE_HINTS = (", while ", "Additionally,", "Meanwhile,", "In addition,")
# "while" before a participle joins two actions of one subject, not two sources, so it does not count.
SIDE_BY_SIDE = re.compile(r", while (?!also\b|\w+ing\b)|(?:^|[.!?] )(?:Additionally|Meanwhile|In addition),")

_ARTICLES = frozenset(("a", "an", "the"))
# Words that join two statements without saying how they are related.
_JOINTS = _ARTICLES | {
    "and",
    "or",
    "but",
    "while",
    "with",
    "plus",
    "also",
    "as",
    "well",
    "in",
    "addition",
    "additionally",
}
_ONE_SOURCE_WORDS = 3


def continuation(fused: Fused, _: RuleSettings) -> bool:
    """``continuation``: the caption only continues a synthetic caption that was cut off.

    The caption begins with a lower-case word, and the synthetic caption has no punctuation at its end. Example: the
    synthetic caption is "Glenfiddich 18 year old single malt Scotch", and the fused caption is "whisky is available for
    purchase at the LCBO." Rejects 0.42% of CapsFusion's published captions.
    """
    first = fused.caption.split(maxsplit=1)[:1]
    if not first or not first[0].rstrip(",").isalpha() or not first[0].islower():
        return False
    return fused.synthetic.rstrip()[-1:] not in END_OF_SENTENCE


def concatenation(fused: Fused, _: RuleSettings) -> bool:
    """``concatenation``: both sources word for word, with only words such as "and" or a full stop between them.

    The prompt forbids concatenation. The rule skips pairs in which a source has fewer than four words or contains the
    other source. Rejects 0.04% of CapsFusion's published captions. The flag ``verbatim`` marks captions that make one
    sentence of both sources.
    """
    return (
        min(len(fused.raw_words), len(fused.synthetic_words)) >= 4
        and _has_both_sources(fused)
        and set(_rest(fused)) <= _JOINTS
    )


def verbatim(fused: Fused, settings: RuleSettings) -> bool:
    """``verbatim``: both sources word for word, joined into one sentence by words such as "is" or "features"."""
    return _has_both_sources(fused) and not concatenation(fused, settings)


def _has_both_sources(fused: Fused) -> bool:
    raw, synthetic, caption = fused.raw_words, fused.synthetic_words, fused.caption_words
    return (
        fused.source_content <= fused.caption_content
        and 2 < len(raw) <= len(caption)
        and 2 < len(synthetic) <= len(caption)
        and contains(caption, raw)
        and contains(caption, synthetic)
        and not contains(raw, synthetic)
        and not contains(synthetic, raw)
    )


def _rest(fused: Fused) -> list[str]:
    """The words that remain if both sources are removed from the caption."""
    rest = f" {' '.join(fused.caption_words)} "
    for source in (fused.raw_words, fused.synthetic_words):
        rest = rest.replace(f" {' '.join(source)} ", "  ", 1)
    return rest.split()


def copy(fused: Fused, _: RuleSettings) -> bool:
    """``copy``: the caption equals one source, except for articles, and lacks words of the other source.

    If the other source adds no word, a copy is correct. In CapsFusion's published pairs, the raw caption adds no word
    in 1.8% of the pairs, and the synthetic caption adds no word in 0.8%. Rejects none of CapsFusion's published
    captions.
    """
    if fused.unsupported:
        return False
    caption = _without_articles(fused.caption_words)
    lost_raw = caption == _without_articles(fused.synthetic_words) and not set(fused.raw_words) <= set(caption)
    lost_synthetic = caption == _without_articles(fused.raw_words) and not set(fused.synthetic_words) <= set(caption)
    return bool(caption) and (lost_raw or lost_synthetic)


def _without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def one_source(fused: Fused, _: RuleSettings) -> bool:
    """``one_source``: three or more content words are in one source only, and the caption has none of these words.

    Many captions with this flag rightly leave out a wrong or garbled source.
    """
    for own in (fused.synthetic_content - fused.raw_content, fused.raw_content - fused.synthetic_content):
        if len(own) >= _ONE_SOURCE_WORDS and own.isdisjoint(fused.caption_content):
            return True
    return False


def knowledge_lost(fused: Fused, settings: RuleSettings) -> bool:
    """``knowledge_lost``: the fused caption keeps less than a quarter of the raw caption's names and numbers.

    The rule skips raw captions with fewer than three names and numbers. Captions that keep more than two names and
    numbers pass, because the model sees only the beginning of a long raw caption. Rejects 0.28% of CapsFusion's
    published captions.
    """
    facts = len(fused.raw_facts)
    kept = facts - len(fused.lost_facts)
    said = bool(fused.caption_words)  # an empty caption is rejected by the rule ``empty``
    return said and facts >= settings.facts_min and kept <= 2 and kept < settings.fact_recall_min * facts


def same_caption(fused: Fused, settings: RuleSettings) -> bool:
    """``same_caption``: the model made the same caption for more than five different raw captions.

    The rule counts the raw captions of the validated table. If the table has the captions of a work unit (rows that one
    GPU task fuses), the rule also counts raw captions of the warehouse. The authors of the data set LVD-2M (Xiong et
    al., 2024) found refined captions that repeat in thousands of rows. Rejects none of CapsFusion's published captions,
    because all 5,000 are different.
    """
    return fused.raws_with_caption > settings.same_caption_max


def unrelated_sources(fused: Fused, _: RuleSettings) -> bool:
    """``unrelated_sources``: the two sources have no content word in common, and the caption sets them side by side.

    Such a caption has ", while the …", "Additionally, …" or "Meanwhile, …". If the sources do not fit together, a
    model writes fluent nonsense. The rule also flags some captions whose sources fit.
    """
    return (
        any(hint in fused.caption for hint in _SIDE_BY_SIDE_HINTS)
        and SIDE_BY_SIDE.search(fused.caption) is not None
        and fused.raw_content.isdisjoint(fused.synthetic_content)
    )
