"""Rules about who speaks in a caption, and to whom. Captions must describe a picture and address nobody."""

from __future__ import annotations

import re

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation import narrator, titles
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import word_set

# Only captions with one of these words are searched for READER, because looking up words is faster than running the
# pattern.
_READER_HINTS = word_set("please you you're our my click more")
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
    # "Looking for" may also describe the picture: "Looking for food, a bear walks in the snow."
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
    """``first_person``: "I", "we", "my", "our", "me" or "us" of a narrator ("I need to get the mitt for my dad").

    Such a caption repeats a comment on a picture instead of describing the picture. What others say does not count ("a
    sign that reads I love you"), nor does a numeral ("Queen Elizabeth I was"), a title ("We Are Marshall", "My Little
    Pony"), or what all people share ("our solar system").
    """
    if narrator.HINTS.isdisjoint(fused.caption_set):
        return False
    return next(narrator.first_persons(fused.caption, fused.sources), None) is not None


def addresses_reader(fused: Fused, _: RuleSettings) -> bool:
    """``addresses_reader``: an advertisement, an instruction or a question to the reader.

    Examples: "Buy it now", "Click here", "Are you …?", "you can purchase". "Welcome" and "Download" alone do not count,
    because titles also begin with these words. Recognised titles ("Don't Look Up is a film") and nouns ("Visit of the
    Pope", "Shop front") do not count either.
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
