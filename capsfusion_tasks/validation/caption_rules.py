"""Rules that look at the caption by itself."""

from __future__ import annotations

import re
import unicodedata

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import loop

END_OF_SENTENCE = frozenset(".!?…\"'”’»›)]" + "。！？」』）؟۔।")

# Control characters, the line and paragraph separators, and the mark that stands for bytes that are no text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]")


def failed(fused: Fused, _: RuleSettings) -> bool:
    """``failed``: the model gave no caption for the row; the finish reason says what happened."""
    return (fused.finish_reason or "").startswith("error")


def empty(fused: Fused, settings: RuleSettings) -> bool:
    """``empty``: no text although the model finished. Published captions: none."""
    return not fused.caption.strip() and not failed(fused, settings)


def too_short(fused: Fused, settings: RuleSettings) -> bool:
    """``too_short``: at most 2 words or at most 5 characters.

    DataComp's basic filter (Gadre et al., 2023). Published captions: none; the shortest has 3 words ("be with
    him.", the end of a cut-off source).
    """
    text = fused.caption.strip()
    return bool(text) and (len(fused.caption_words) < settings.min_words or len(text) < settings.min_characters)


def too_long(fused: Fused, settings: RuleSettings) -> bool:
    """``too_long``: more than 80 words.

    The paper's limit of 80 tokens cannot give as many. Published captions: none; the longest has 65 words.
    """
    return len(fused.caption_words) > settings.max_words


def truncated(fused: Fused, _: RuleSettings) -> bool:
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


def repetition(fused: Fused, settings: RuleSettings) -> bool:
    """``repetition``: more than 15% of the trigrams stood before in the caption, or it loops where its sources do not.

    Gopher (Rae et al., 2021) takes 0.18 for the most frequent n-grams of a page; in a caption of 22 words 0.15 is three
    trigrams said twice. Published captions: 0.18%, mostly a title that is said twice.
    """
    if fused.repetition > settings.repetition_max:
        return True
    said = loop(fused.caption, fused.caption_words)
    return said is not None and said not in fused.sources_lower


def control_characters(fused: Fused, _: RuleSettings) -> bool:
    """``control_characters``: a control character, a line break or a replacement character (U+FFFD) in the caption.

    Joiners and direction marks are text: emoji and right-to-left scripts need them. Published captions: one (0.02%),
    a line break.
    """
    return _CONTROL.search(fused.caption) is not None
