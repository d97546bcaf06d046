"""Rules that look at the caption beside its two sources."""

from __future__ import annotations

import re
from collections.abc import Sequence

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.caption_rules import END_OF_SENTENCE
from capsfusion_tasks.validation.facts import base_form
from capsfusion_tasks.validation.language import is_foreign, words_not_latin
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import FUNCTION_WORDS, contains

# What the instruction says of the sentences and of the task: phrases that a caption has no reason to use by itself.
INSTRUCTION_PHRASES = (
    "real-world",
    "in the real world, there",
    "sentence structure",
    "structured sentence",
    "two sentences",
    "given sentences",
    "merged sentence",
    "refined sentence",
    "combined sentence",
    "new sentence",
    "false information",
    "false details",
    "simply concatenating",
)
# "real-world" as English has it, not as the instruction.
_HONEST_REAL_WORLD = re.compile(
    r"real-world (?:scenarios|problems|applications|issues?|challenges|experiences|engineering)"
)

_SOURCE_MARKER = re.compile(r"\bsentences? (?:1|2|one|two)\b|\b(?:first|second) sentence\b")

# How chat models decline and present themselves; "I'm sorry" alone is what shirts and songs say. The hints are words of
# which each pattern has one, and which are quickly looked for.
_REFUSAL_HINTS = (
    " ai",
    "language model",
    "sorry",
    "apologi",
    "unfortunately",
    "unable",
    "not able",
    "i can",
    "i won",
    "i do",
)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:sorry,? (?:but )?i(?:'m| am) )?(?:unable|not able) to\b"
    r"|\b(?:i(?:'m| am) sorry|sorry|i apologi[sz]e|unfortunately),? (?:but )?(?:i|it|this|there|the (?:request|task))"
    r" (?:can't|cannot|can not|couldn't|could not|(?:am|is|was) (?:unable|not (?:able|possible)))\b"
    r"|\bi (?:can't|cannot|can not|won't) (?:assist|help|comply|fulfil+|provide|generate|create|merge|do that)\b"
    r"|\bi (?:don't|do not) have (?:enough|sufficient|access)\b"
)

_MARKUP_HINTS = ("<", "&", "http", "www.", "**", "__", "```", "](", "#", "- ", "* ", "[/", "[i", "\\")
_MARKUP = re.compile(
    r"</?[a-z][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,6});|https?://\S+|\bwww\.\S+"
    r"|\*\*[^*]+\*\*|__[^_]+__|```|!?\[[^\[\]]+\]\([^()\s]+\)|\[/?inst\]|<<?/?sys>>?|\\[nt]"
)
_LINE_MARK = re.compile(r"\s*(?:#{1,6}|[*-]) ")
_ADDRESS_START = re.compile(r"^(?:https?://)?(?:www\.)?")

_ARTICLES = frozenset(("a", "an", "the"))

_SIDE_BY_SIDE_HINTS = (", while ", "Additionally,", "Meanwhile,", "In addition,")
# "while" before a participle joins two doings of one subject.
_SIDE_BY_SIDE = re.compile(r", while (?!also\b|\w+ing\b)|(?:^|[.!?] )(?:Additionally|Meanwhile|In addition),")

# Words that put one thing beside another without saying how they belong together.
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


def prompt_leakage(fused: Fused, _: RuleSettings) -> bool:
    """``prompt_leakage``: a phrase of the instruction that stands in neither source.

    BLIP3-KALE (Awadalla et al., 2024) removes such sentences. "Real-world problems" and the like are English. Published
    captions: 4.36%, nine in ten of them by "real-world" ("provides detailed real-world knowledge about …").
    """
    caption = fused.caption_lower
    said = [phrase for phrase in INSTRUCTION_PHRASES if phrase in caption]
    if said == ["real-world"] and _HONEST_REAL_WORLD.search(caption):
        return False
    return any(phrase not in fused.sources_lower for phrase in said)


def source_marker(fused: Fused, _: RuleSettings) -> bool:
    """``source_marker``: the caption speaks of "Sentence 1" or "the second sentence", as no source does.

    Published captions: 0.18%.
    """
    return "sentence" in fused.caption_lower and _says_unlike_sources(_SOURCE_MARKER, fused)


def refusal(fused: Fused, _: RuleSettings) -> bool:
    """``refusal``: the model speaks of itself ("As an AI") or declines the task, in words that no source has.

    Published captions: none. Patterns are of whole phrases: "I'm Sorry" on a shirt and "I can't believe it" of a comic
    are honest text.
    """
    return any(hint in fused.caption_lower for hint in _REFUSAL_HINTS) and _says_unlike_sources(_REFUSAL, fused)


def _says_unlike_sources(pattern: re.Pattern[str], fused: Fused) -> bool:
    said = pattern.findall(fused.caption_lower.replace("’", "'"))
    return bool(said) and any(phrase not in fused.sources_lower.replace("’", "'") for phrase in said)


def continuation(fused: Fused, _: RuleSettings) -> bool:
    """``continuation``: the caption goes on where a cut-off synthetic caption stops, and cannot stand by itself.

    It begins with a lower-case word, and the synthetic caption has no end. Published captions: 0.42% ("Glenfiddich 18
    year old single malt Scotch" gives "whisky is available for purchase at the LCBO.").
    """
    first = fused.caption.split(maxsplit=1)[:1]
    if not first or not first[0].rstrip(",").isalpha() or not first[0].islower():
        return False
    return fused.synthetic.rstrip()[-1:] not in END_OF_SENTENCE


def concatenation(fused: Fused, _: RuleSettings) -> bool:
    """``concatenation``: both sources word for word, with nothing between them but "and", "while" or a full stop.

    The instruction forbids it. Sources of less than four words say nothing, and neither does one source that contains
    the other. Published captions: 0.04%; for those that make a sentence of both, see the flag ``verbatim``.
    """
    return (
        min(len(fused.raw_words), len(fused.synthetic_words)) >= 4
        and _has_both_sources(fused)
        and set(_rest(fused)) <= _JOINTS
    )


def verbatim(fused: Fused, settings: RuleSettings) -> bool:
    """``verbatim``: both sources stand in the caption word for word, joined to a sentence ("is", "features").

    Published captions: 2.3%. Most read well, so this rejects nothing.
    """
    return _has_both_sources(fused) and not concatenation(fused, settings)


def _has_both_sources(fused: Fused) -> bool:
    raw, synthetic, caption = fused.raw_words, fused.synthetic_words, fused.caption_words
    return (
        2 < len(raw) <= len(caption)
        and 2 < len(synthetic) <= len(caption)
        and contains(caption, raw)
        and contains(caption, synthetic)
        and not contains(raw, synthetic)
        and not contains(synthetic, raw)
    )


def _rest(fused: Fused) -> list[str]:
    """The words of a caption that has both sources, without these."""
    rest = f" {' '.join(fused.caption_words)} "
    for source in (fused.raw_words, fused.synthetic_words):
        rest = rest.replace(f" {' '.join(source)} ", "  ", 1)
    return rest.split()


def copy(fused: Fused, _: RuleSettings) -> bool:
    """``copy``: the caption is one of its sources but for articles, and words of the other one are lost.

    Where the other source adds no word, its copy is the right answer: in 1.8% of the published pairs the raw caption
    adds no word, in 0.8% the synthetic one. Published captions: none is a copy.
    """
    caption = _without_articles(fused.caption_words)
    lost_raw = caption == _without_articles(fused.synthetic_words) and not set(fused.raw_words) <= set(caption)
    lost_synthetic = caption == _without_articles(fused.raw_words) and not set(fused.synthetic_words) <= set(caption)
    return bool(caption) and (lost_raw or lost_synthetic)


def _without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def knowledge_lost(fused: Fused, settings: RuleSettings) -> bool:
    """``knowledge_lost``: of three or more names and numbers of the raw caption, the caption keeps less than a quarter.

    And no more than two of them: of a long raw caption the model sees only the beginning. Published captions: 0.28%.
    """
    facts = len(fused.raw_facts)
    kept = facts - len(fused.lost_facts)
    said = bool(fused.caption_words)  # else it is empty, and that is what is wrong with it
    return said and facts >= settings.facts_min and kept <= 2 and kept < settings.fact_recall_min * facts


def invention(fused: Fused, settings: RuleSettings) -> bool:
    """``invention``: more than two names and numbers that stand in neither source, written out or as an abbreviation.

    Published captions: 0.12%, what the model knows of a work or a person ("Bashar al-Assad" for "Assad").
    """
    return len(fused.invented_facts) > settings.invented_max


def wrong_script(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_script``: letters of another script than Latin that stand in neither source so. Published captions: none.

    A name may be copied from a source as it is written there.
    """
    return any(word not in fused.sources_lower for word in words_not_latin(fused.caption_lower))


def wrong_language(fused: Fused, _: RuleSettings) -> bool:
    """``wrong_language``: the caption's grammar is not English, leaving out the words that its raw caption has.

    CapsFusion's captions are English whatever the raw caption is. Published captions: one (0.02%), in French.
    """
    return is_foreign(fused.caption_words, names=fused.raw_words)


def markup(fused: Fused, _: RuleSettings) -> bool:
    """``markup``: HTML, Markdown, an address or a chat template's tag that neither source has.

    An address counts as the sources' where they have it without its "https://www.". Published captions: none.
    """
    caption = fused.caption_lower
    if not any(hint in caption for hint in _MARKUP_HINTS):
        return False
    if (start := _LINE_MARK.match(caption)) and not fused.sources_lower.startswith(start[0]):
        return True
    marks = (_ADDRESS_START.sub("", found).rstrip(".,;:!?)\"'") for found in _MARKUP.findall(caption))
    return any(mark not in fused.sources_lower for mark in marks)


def same_caption(fused: Fused, settings: RuleSettings) -> bool:
    """``same_caption``: more than five different raw captions got this very caption, here or in the warehouse.

    LVD-2M (Xiong et al., 2024) met refined captions that repeat over thousands of rows. Published captions: none; no
    two of the 5,000 are the same.
    """
    return fused.raws_with_caption > settings.same_caption_max


def unrelated_sources(fused: Fused, _: RuleSettings) -> bool:
    """``unrelated_sources``: the two sources have no content word in common, and the caption sets them side by side.

    That is by ", while the …", "Additionally, …" or "Meanwhile, …". A mismatched pair fuses into fluent nonsense; but
    now and then a pair that fits does so too, so this rejects nothing. Published captions: 1.8%.
    """
    return (
        any(hint in fused.caption for hint in _SIDE_BY_SIDE_HINTS)
        and _SIDE_BY_SIDE.search(fused.caption) is not None
        and not _content(fused.raw_words) & _content(fused.synthetic_words)
    )


def _content(words: Sequence[str]) -> frozenset[str]:
    return frozenset(base_form(word) for word in words if word not in FUNCTION_WORDS)
