"""Rules about who speaks in a caption, and to whom. Captions must describe a picture and address nobody."""

from __future__ import annotations

import re
from collections.abc import Iterator

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation import titles
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import word_set

# Only captions with one of these words are searched for _FIRST_PERSON or READER, because looking up words in a set is
# faster than running the pattern.
_FIRST_PERSON_HINTS = word_set("i i'm i've i'd i'll we we're we've we'd we'll")
_READER_HINTS = word_set("please you you're our my click more")
_FIRST_PERSON = re.compile(
    r"\b(?:I|[Ww]e)(?:['’](?:m|ve|d|ll|re)"
    r"| (?:am|are|was|were|have|had|do|don['’]t|did|didn['’]t|can|could|will|would|need|want|love|think|use|used|got"
    r"|made|found|look|offer|bought|created|decided|desire|discovered|envision|followed|regret|also|just|recently))\b"
)
# "I" counts as a Roman numeral between a name that does not begin a sentence and one of the verbs in _AFTER_NUMERAL
# ("under Queen Elizabeth I were"). In "the Nikon I bought", "I" is the pronoun.
_BEFORE_NUMERAL = re.compile(r"[\w,)] [A-Z][\w'’-]* \Z")
_AFTER_NUMERAL = re.compile(r"I (?:are|was|were|had|did|didn['’]t|can|could|will|would|also)\Z")
_NAME_LENGTH = 40  # in characters; longer names before a numeral are not found, which bounds the time
_NEXT_WORD = re.compile(r"\W+[A-Z]\w*")
# First words that show that a caption is an advertisement, an instruction or a question. Some of these verbs are nouns,
# too, so the next word decides: "Visit our shop" and "Visit of the Pope", "Shop now" and "Shop front".
_OFFER = re.compile(
    r"(?:Introducing|Buy|Click (?:here|on|to|for|the|this|an?|any|each|images?|photos?|links?|below|above|through|now)"
    r"|Check out(?! (?:counter|desk|line|lane|area|page|process|time))"
    r"|Register (?:now|today|online|here|for|to|with|your|by|at)"
    r"|Shop (?:now|online|today|here|for(?! (?:sale|rent|lease))|the|our|all|an?|this|these|by|from|more|your"
    r"|at (?:our|[A-Z][\w-]*['’]s)|[\w-]+['’]s|[A-Z][\w-]*|[^.]* online)|Order now|Enjoy|Learn how|Find out"
    r"|Visit(?! (?:of|to|by|from|in|at|with|and|or|during|between|on|for|is|was|[Cc]ards?|[Dd]ays?|[Dd]ates?)\b)(?= )"
    r"|Get (?:an?|the|your|ready)|Discover (?:the|how|an?|our|your))\b"
)
_ADDRESS = re.compile(
    # A bear may be looking for food: "Looking for food, a bear walks in the snow."
    r"(?:Looking for(?= [^.!]*\?| [^,]*\Z|.*\b(?:you|your|look no further)\b"
    r"|[^,]*, (?:check|see|visit|try|shop|look|here)\b)|Please|Don['’]t|Welcome to (?:our|my|the)"
    # "Here is Greenwood" and "Here are Tom and Ann" name what the picture shows.
    r"|Here(?:['’]s| is| are)(?! (?!(?:The|An?|Our|My|Your|Some) )[A-Z][\w-]*(?![\w'’-]))"
    r"|Are you|Do you|Have you|How (?:about|can you|much do)|Is it)\b"
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

    Such a caption repeats a comment on a picture instead of describing the picture. The numeral in "Queen Elizabeth I
    was" does not count, nor does a title of a source ("We Are Shining Stationery Cards").
    """
    if _FIRST_PERSON_HINTS.isdisjoint(fused.caption_set):
        return False
    return next(first_persons(fused.own_words, fused.sources), None) is not None


def first_persons(text: str, sources: str) -> Iterator[re.Match[str]]:
    """The places where ``text`` says "I" or "we", except in Roman numerals and in titles that ``sources`` have."""
    for match in _FIRST_PERSON.finditer(text):
        if not _is_numeral(match, text) and not _begins_a_title(match, text, sources):
            yield match


def _is_numeral(match: re.Match[str], text: str) -> bool:
    before = text[max(0, match.start() - _NAME_LENGTH) : match.start()]
    return _AFTER_NUMERAL.match(match[0]) is not None and _BEFORE_NUMERAL.search(before) is not None


def _begins_a_title(match: re.Match[str], text: str, sources: str) -> bool:
    """Whether ``match`` and the capitalised word after it are written As A Title in ``sources``."""
    following = _NEXT_WORD.match(text, match.end())
    title = " ".join(word[0].upper() + word[1:] for word in match[0].split())
    return following is not None and f"{title}{following[0]}" in sources


def addresses_reader(fused: Fused, _: RuleSettings) -> bool:
    """``addresses_reader``: an advertisement, an instruction or a question to the reader.

    Examples: "Buy it now", "Click here", "Are you …?", "you can purchase". "Welcome" and "Download" alone do not count,
    because titles also begin with these words. Nor does a title that is recognised ("Don't Look Up is a film"), or a
    noun ("Visit of the Pope", "Shop front").
    """
    if opening(fused.caption) is not None:
        return True
    return not _READER_HINTS.isdisjoint(fused.caption_set) and READER.search(fused.caption_lower) is not None


def opening(caption: str) -> re.Match[str] | None:
    """The first words of ``caption`` if they address the reader, and are not the beginning of a title.

    "Buy Frozen, the film" is an offer, but "Don't Starve, the game" is a title.
    """
    if offer := _OFFER.match(caption):
        return None if titles.is_subject(caption) else offer
    address = _ADDRESS.match(caption)
    return None if address and (titles.is_subject(caption) or titles.is_named(caption)) else address


def question(fused: Fused, _: RuleSettings) -> bool:
    """``question``: the caption ends in a question mark outside quotation marks."""
    return "?" in fused.caption and fused.own_words.rstrip().endswith("?")
