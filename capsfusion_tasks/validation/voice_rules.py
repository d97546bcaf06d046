"""Rules about who speaks in a caption, and to whom. Captions must describe a picture and address nobody."""

from __future__ import annotations

import re

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import word_set

# A match needs one of these words. Looking up words in a set is faster than running the pattern.
_FIRST_PERSON_HINTS = word_set("i i'm i've i'd i'll we we're we've we'd we'll")
_READER_HINTS = word_set("please you you're our my click more")
FIRST_PERSON = re.compile(
    r"\b(?:I|[Ww]e)(?:['’](?:m|ve|d|ll|re)"
    r"| (?:am|are|was|were|have|had|do|don['’]t|did|didn['’]t|can|could|will|would|need|want|love|think|use|used|got"
    r"|made|found|look|offer|bought|created|decided|desire|discovered|envision|followed|regret|also|just|recently))\b"
)
# First words that show that a caption is an advertisement, an instruction or a question.
OPENING = re.compile(
    r"(?:Introducing|Buy|Click|Check out|Register|Shop\b|Order now|Looking for|Please|Enjoy|Learn how|Find out|Don['’]t"
    r"|Visit\b|Get (?:a|an|the|your|ready)\b|Discover (?:the|how|a|our|your)\b|Welcome to (?:our|my|the)\b"
    r"|Here(?:['’]s| is| are)\b|Are you\b|Do you\b|Have you\b|How (?:about|can you|much do)\b|Is it\b)"
)
READER = re.compile(
    r"\bplease (?:note|visit|contact|confirm|click|see|take|call|check|email)\b"
    r"|\byou can (?:purchase|buy|order|download|find (?:it|this|them|all|more|out))\b"
    r"|\bif you(?:['’]re| are) (?:looking|interested|searching)\b|\bclick (?:here|on|to)\b"
    r"|\b(?:our|my) (?:collection|store|shop|website|blog|products?|customers)\b"
    r"|\bfor more (?:information|recipes|details)\b"
)


def first_person(fused: Fused, _: RuleSettings) -> bool:
    """``first_person``: "I" or "we" outside quotation marks ("I need to get the oven mitt for my dad").

    Such a caption repeats a comment on a picture instead of describing the picture.
    """
    if _FIRST_PERSON_HINTS.isdisjoint(fused.caption_set):
        return False
    return FIRST_PERSON.search(fused.own_words) is not None


def addresses_reader(fused: Fused, _: RuleSettings) -> bool:
    """``addresses_reader``: an advertisement, an instruction or a question to the reader.

    Examples: "Buy it now", "Click here", "Are you …?", "you can purchase". "Welcome" and "Download" alone do not count,
    because titles also begin with these words.
    """
    if OPENING.match(fused.caption):
        return True
    return not _READER_HINTS.isdisjoint(fused.caption_set) and READER.search(fused.caption_lower) is not None


def question(fused: Fused, _: RuleSettings) -> bool:
    """``question``: the caption ends in a question mark outside quotation marks."""
    return "?" in fused.caption and fused.own_words.rstrip().endswith("?")
