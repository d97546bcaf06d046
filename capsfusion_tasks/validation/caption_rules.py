"""Rules about the form of a caption: length, end, repetition, characters."""

from __future__ import annotations

import re
import unicodedata

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.english import is_to_be_english
from capsfusion_tasks.validation.scores import Fused, content
from capsfusion_tasks.validation.text import FUNCTION_WORDS, contains, loop, sentences, word_set, words

END_OF_SENTENCE = frozenset(".!?…\"'”’»›)]" + "。！？」』）؟۔।")
_ELLIPSIS = ("...", "…")
_CLOSING = " \"'”’»›)]"
# No English sentence ends in one of these words, so a caption that ends in one was cut off.
_NEVER_LAST = word_set("a an the and or but nor than because although its their his my your our very")

_INNER_END = re.compile(r"[.!?][\"'”’)]*\s")

# Control characters, line and paragraph separators, and U+FFFD, which stands for bytes that are not valid text.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]")
# Characters that a reader cannot see, such as soft hyphens, zero-width spaces, bidi controls and tag characters.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
# Flag emoji with tag characters, such as the flags of England and Scotland. Elsewhere, tag characters are rejected.
_FLAG = re.compile("\U0001f3f4[\U000e0061-\U000e007a\U000e0030-\U000e0039]{2,6}\U000e007f")


def failed(fused: Fused, _: RuleSettings) -> bool:
    """``failed``: the model gave no caption for the row; the finish reason says what happened."""
    return (fused.finish_reason or "").startswith("error")


def empty(fused: Fused, settings: RuleSettings) -> bool:
    """``empty``: the model finished, but the caption has no visible character.

    Spaces, control characters and zero-width characters are not visible. Rejects none of CapsFusion's published
    captions.
    """
    return not visible(fused.caption) and not failed(fused, settings)


def visible(text: str) -> str:
    """The visible part of ``text``. Empty if ``text`` has only spaces, marks, control and zero-width characters."""
    stripped = text.strip()
    if stripped.isascii() and stripped.isprintable():
        return stripped
    return "".join(c for c in stripped if unicodedata.category(c)[0] not in "CZM" and not INVISIBLE.match(c))


def too_short(fused: Fused, settings: RuleSettings) -> bool:
    """``too_short``: fewer than 3 words or fewer than 6 characters.

    These are the limits of DataComp's basic filter (Gadre et al., 2023). Rejects none of CapsFusion's published
    captions. The shortest published caption has 3 words ("be with him."), because it continues a cut-off source.
    """
    short = len(fused.caption_words) < settings.min_words or len(fused.caption.strip()) < settings.min_characters
    return short and bool(visible(fused.caption))


def too_long(fused: Fused, settings: RuleSettings) -> bool:
    """``too_long``: more than 80 words.

    The CapsFusion paper limits captions to 80 tokens, and a caption within this limit cannot have more than 80 words.
    Rejects none of CapsFusion's published captions. The longest published caption has 65 words.
    """
    return len(fused.caption_words) > settings.max_words


def truncated(fused: Fused, settings: RuleSettings) -> bool:
    """``truncated``: decoding hit its token limit, or the caption ends inside a sentence, a clause or a word.

    A caption counts as truncated if it ends without punctuation or in "…". A closing quotation mark or bracket counts
    as punctuation, and an emoji may follow the punctuation. A caption in English also counts as truncated if the word
    before its full stop cannot end a sentence ("the", "and").
    """
    if fused.finish_reason == "length":
        return True
    text = fused.caption
    last = len(text)
    # Ignore symbols, separators, control characters and combining marks at the end.
    while last and unicodedata.category(text[last - 1])[0] in "SZCM":
        last -= 1
    if text[last - 1 : last] in END_OF_SENTENCE:
        return _ends_in_a_clause(fused, text[:last], english=is_to_be_english(fused, settings))
    return bool(visible(text))


def _ends_in_a_clause(fused: Fused, text: str, *, english: bool) -> bool:
    if text[-1] != ".":
        return text.rstrip(_CLOSING).endswith(_ELLIPSIS)
    if text.endswith("..") or not fused.caption_words:
        return text.endswith("...")
    word = fused.caption_words[-1]
    return english and word in _NEVER_LAST and text.endswith(f" {word}.")


def repetition(fused: Fused, settings: RuleSettings) -> bool:
    """``repetition``: more than 15% of the trigrams repeat an earlier trigram, or there is a loop that no source has.

    In a loop, the same words, letters or signs follow one another several times ("hahahahaha"). A loop is allowed if a
    source has its words, even with other punctuation ("Tora! Tora! Tora!").

    For comparison, Gopher (Rae et al., 2021) limits the most frequent trigram of a page to 18%. A caption of 22 words
    reaches 15% if three trigrams occur twice. Rejects 0.18% of CapsFusion's published captions. Most of these contain a
    title twice.
    """
    if fused.repetition > settings.repetition_max:
        return True
    said = loop(fused.caption, fused.caption_words)
    if said is None or said in fused.sources_lower:
        return False
    return not contains(fused.source_words, said.split())


def restated(fused: Fused, settings: RuleSettings) -> bool:
    """``restated``: two sentences have at least 70% of the shorter sentence's content words in common.

    Content words are all words except grammar words ("the", "of"). The rule skips sentences with fewer than three
    content words.
    """
    if len(fused.caption_words) - len(fused.caption_set) < 3 or not _INNER_END.search(fused.caption):
        return False
    said_twice = sum(word not in FUNCTION_WORDS for word in fused.caption_words) - len(fused.caption_content)
    if said_twice < 3 or len(parts := sentences(fused.caption)) == 1:
        return False
    said = [found for sentence in parts if len(found := content(set(words(sentence)))) >= 3]
    return any(
        len(one & other) >= settings.restated_max * min(len(one), len(other))
        for place, one in enumerate(said)
        for other in said[:place]
    )


def control_characters(fused: Fused, _: RuleSettings) -> bool:
    """``control_characters``: a control character, a line break, an invisible character or a replacement character.

    Invisible characters are soft hyphens, zero-width spaces, bidi overrides and Unicode's tag characters. Zero-width
    (non-)joiners and direction marks are allowed, because emoji and right-to-left scripts need them. Rejects one of
    CapsFusion's published captions (0.02%), because of a line break.
    """
    caption = fused.caption
    if caption.isascii():
        return not caption.isprintable()
    return CONTROL.search(caption) is not None or INVISIBLE.search(_FLAG.sub("", caption)) is not None
