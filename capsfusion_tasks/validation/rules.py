"""Why a caption is rejected: one small function a rule, each with its reason code, source and calibration.

Shares are of the 5,000 published captions that CapsFusion's own model wrote (a half of the 10,000 published pairs), so
they are what a good model does wrong, not how often a rule errs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import contains, repeated_share

END_OF_SENTENCE = frozenset(".!?…\"'”’»›)]" + "。！？」』）؟۔।")

# What the instruction says of the sentences and of the task: phrases that a caption has no reason to use by itself.
INSTRUCTION_PHRASES = (
    "real-world",
    "sentence structure",
    "structured sentence",
    "well-structured",
    "sentence 1",
    "sentence 2",
    "first sentence",
    "second sentence",
    "two sentences",
    "given sentences",
    "merged sentence",
    "new sentence",
    "false information",
    "false details",
)

REPEATED_TRIGRAMS_MAX = 0.15

# Control characters, the line and paragraph separators, and the mark that stands for bytes that are no text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]")


def failed(fused: Fused) -> bool:
    """``failed``: the model gave no caption for the row; the finish reason says what happened."""
    return (fused.finish_reason or "").startswith("error")


def empty(fused: Fused) -> bool:
    """``empty``: no text although the model finished. Published captions: none."""
    return not fused.caption.strip() and not failed(fused)


def too_short(fused: Fused) -> bool:
    """``too_short``: at most 2 words or at most 5 characters.

    DataComp's basic filter (Gadre et al., 2023). Published captions: none; the shortest has 3 words ("be with
    him.", the end of a cut-off source).
    """
    text = fused.caption.strip()
    return bool(text) and (len(fused.caption_words) <= 2 or len(text) <= 5)


def truncated(fused: Fused) -> bool:
    """``truncated``: decoding hit its token limit, or the text ends without an end of sentence.

    A closing quote or bracket ends a sentence too, and an emoji may follow. Published captions (their finish reason is
    not known): 2.36%, nearly all of 35 words or more, where the limit of 80 tokens cuts.
    """
    if fused.finish_reason == "length":
        return True
    text = fused.caption
    last = len(text)
    while last and unicodedata.category(text[last - 1])[0] in "SZCM":  # symbols, separators, control characters, marks
        last -= 1
    return bool(text.strip()) and text[last - 1 : last] not in END_OF_SENTENCE


def prompt_leakage(fused: Fused) -> bool:
    """``prompt_leakage``: a phrase of the instruction that stands in neither source.

    BLIP3-KALE (Awadalla et al., 2024) removes such sentences. Published captions: 4.76%, nine in ten of them by
    "real-world" ("provides detailed real-world knowledge about …").
    """
    caption, raw, synthetic = fused.caption.lower(), fused.raw.lower(), fused.synthetic.lower()
    return any(phrase in caption and phrase not in raw and phrase not in synthetic for phrase in INSTRUCTION_PHRASES)


def repetition(fused: Fused) -> bool:
    """``repetition``: more than 15% of the trigrams stood before in the caption.

    Gopher (Rae et al., 2021) takes 0.18 for the most frequent n-grams of a page; in a caption of 22 words 0.15 is three
    trigrams said twice. Published captions: 0.18%, mostly a title that is said twice.
    """
    return repeated_share(fused.caption_words) > REPEATED_TRIGRAMS_MAX


def concatenation(fused: Fused) -> bool:
    """``concatenation``: both sources stand in the caption word for word, which the instruction forbids.

    Sources of one or two words say nothing, and neither does one source that contains the other. Published captions:
    2.38%, joined by "is", "features", "with".
    """
    raw, synthetic, caption = fused.raw_words, fused.synthetic_words, fused.caption_words
    return (
        min(len(raw), len(synthetic)) > 2
        and contains(caption, raw)
        and contains(caption, synthetic)
        and not contains(raw, synthetic)
        and not contains(synthetic, raw)
    )


def copy(fused: Fused) -> bool:
    """``copy``: the caption is one of its sources, and words of the other one are lost.

    Where the other source adds no word, its copy is the right answer: in 1.8% of the published pairs the raw caption
    adds no word, in 0.8% the synthetic one. Published captions: none is a copy.
    """
    caption = fused.caption_words
    lost_raw = caption == fused.synthetic_words and not set(fused.raw_words) <= set(caption)
    lost_synthetic = caption == fused.raw_words and not set(fused.synthetic_words) <= set(caption)
    return bool(caption) and (lost_raw or lost_synthetic)


def unrelated_sources(fused: Fused) -> bool:
    """``unrelated_sources``: the two sources have no word in common, and each has five words or more.

    A mismatched pair fuses into fluent nonsense; so does now and then a pair that fits, so this rejects nothing.
    """
    return min(len(fused.raw_words), len(fused.synthetic_words)) >= 5 and not set(fused.raw_words) & set(
        fused.synthetic_words
    )


def control_characters(fused: Fused) -> bool:
    """``control_characters``: a control character, a line break or a replacement character (U+FFFD) in the caption.

    Joiners and direction marks are text: emoji and right-to-left scripts need them. Published captions: one (0.02%),
    a line break.
    """
    return _CONTROL.search(fused.caption) is not None


# In the order in which reasons are listed. A rule's name is its reason code.
RULES: tuple[Callable[[Fused], bool], ...] = (
    failed,
    empty,
    too_short,
    truncated,
    prompt_leakage,
    repetition,
    concatenation,
    copy,
    control_characters,
)

FLAGS: tuple[Callable[[Fused], bool], ...] = (unrelated_sources,)


def reasons(fused: Fused) -> list[str]:
    """The codes of all rules that reject the caption, in the order of ``RULES``; empty: accepted."""
    return [rule.__name__ for rule in RULES if rule(fused)]


def flags(fused: Fused) -> list[str]:
    """The codes of all rules that ask for a look at the caption, in the order of ``FLAGS``."""
    return [rule.__name__ for rule in FLAGS if rule(fused)]
