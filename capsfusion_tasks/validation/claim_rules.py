"""Rules about claims that neither source caption makes: numbers, names, colours, denials, general statements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.facts import base_form
from capsfusion_tasks.validation.language import words_not_latin
from capsfusion_tasks.validation.leak_rules import says_unlike_sources
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import FUNCTION_WORDS, word_set

# Each colour with its shades, and with its names in the most frequent languages of raw captions. A shade between two
# colours is listed with both, because speakers of English disagree: teal is blue to some of them and green to others.
_COLOURS = {
    "red": "crimson scarlet maroon burgundy ruby coral rojo roja rouge rosso rossa rot rote roten vermelho rood",
    "orange": "coral naranja arancione laranja",
    "yellow": "lime amarillo amarilla jaune giallo gialla gelb gelbe amarelo geel",
    "green": "teal turquoise aqua cyan olive emerald lime mint verde vert verte grün grüne groen",
    "blue": "navy azure turquoise teal aqua cyan indigo cobalt azul bleu bleue blu blau blaue blauw",
    "purple": "violet lavender lilac plum mauve indigo burgundy magenta fuchsia morado violeta viola lila roxo paars",
    "pink": "rose rosa magenta fuchsia coral lilac mauve roze",
    "brown": "tan beige bronze chocolate maroon olive marrón marron marrone braun braune marrom bruin",
    "black": "ebony charcoal negro negra noir noire nero nera schwarz schwarze schwarzer preto preta zwart",
    "white": "ivory cream beige blanco blanca blanc blanche bianco bianca weiß weiße weiss branco branca wit",
    "grey": "gray silver charcoal gris grise grigio grigia grau graue cinza grijs",
}
_COLOURS_AND_SHADES = {colour: {colour, *shades.split()} for colour, shades in _COLOURS.items()}
# Word → the colours that it may stand for.
COLOURS_OF = {
    word: frozenset(colour for colour, words in _COLOURS_AND_SHADES.items() if word in words)
    for word in set().union(*_COLOURS_AND_SHADES.values())
}
PLAIN_COLOURS = frozenset((*_COLOURS, "gray"))

_DENIAL_HINTS = (" not ", "n't ", "n’t ")
DENIAL = re.compile(r"\bnot(?! only\b| just\b| to miss\b)\b|n't\b")
_SOURCE_DENIAL = re.compile(
    r"\b(?:no|not|never|nor|none|nothing|nobody|cannot|cant|wont|dont|doesnt|didnt|isnt|without|avoid|instead|unable"
    r"|impossible|un(?:like|healthy|happy|real|true|known|official)|non-\w+|free|anti|out of|stop|refuse\w*|deny"
    r"|denies|denied|less|lack\w*|missing|\w+less)\b|n['’]t\b"
)

# Only captions with one of these words or ", while" are searched for LOOSE_LINK, because looking up words in a set is
# faster than running the pattern. _TALK_HINTS does the same for GENERAL_TALK.
_LINK_HINTS = word_set(
    "depicted shown seen illustrated mentioned featured captured indicated evidenced suggested demonstrated exemplified"
    " implied stated represented specifically indicating suggesting additionally meanwhile furthermore"
    " moreover addition therefore instance however"
)
LOOSE_LINK = re.compile(
    r"\bas (?:depicted|shown|seen|illustrated|mentioned|featured|captured|indicated|evidenced|suggested|demonstrated"
    r"|exemplified|implied|stated|represented) (?:by|in|on)\b|specifically (?:an?|the)\b"
    r"|, while (?!(?:also )?\w+ing\b)|\bis (?:visually )?represented by\b|(?:indicat|suggest)ing\b"
    r"|(?:^|[.!?] )(?:additionally|meanwhile|furthermore|moreover|in addition|therefore|for instance|however)\b"
)
TALK_WORDS = word_set(
    "often commonly typically usually generally widely provide provides comprehensive ensure ensures ensuring"
    " crucial convenience convenient conveniently unique allows allowing option options refer refers whether"
)
_TALK_HINTS = word_set(
    "known renowned considered specializes specialises designed suitable can making important popular high focuses"
    " focusing organization organisation company technology process how"
)
GENERAL_TALK = re.compile(
    r"\b(?:is|are) (?:best |well[- ])?(?:known|renowned|considered) (?:for|as|to)\b|speciali[sz]es? in\b"
    r"|designed (?:to|for|specifically)\b|suitable for\b|\bcan (?:also )?be (?!seen|found|spotted|observed|used)\w+"
    r"|\bmaking (?:it|them)\b|important to\b|popular choice\b|\bhigh-quality\b|\bfocus(?:es|ing) on\b"
    r"|\bis an? (?:organi[sz]ation|company|technology|process)\b|\bhow to\b"
)


def invention(fused: Fused, settings: RuleSettings) -> bool:
    """``invention``: more than two names and numbers that neither source has, not even as an abbreviation.

    Rejects 0.12% of CapsFusion's published captions, mostly because the model added what it knows about a work or a
    person ("Bashar al-Assad" for "Assad").
    """
    return len(fused.invented_facts) > settings.invented_max


def invented_number(fused: Fused, _: RuleSettings) -> bool:
    """``invented_number``: a number, a year, a price or a number word ("three") that neither source has in any form.

    The word "two" is usually allowed, because it may count items that a source lists. But if the caption drops a number
    word of a source, "two" is rejected, because it probably replaces the source's number.
    """
    return bool(fused.invented_numbers)


def invented_name(fused: Fused, settings: RuleSettings) -> bool:
    """``invented_name``: one or two names that are in neither source.

    Half of these names are correct, because the model knows the subject. For example, it adds "South Korean" to the
    name of a band, or "TV show" to the title of a series.
    """
    return any(map(str.isalpha, fused.invented_facts)) and not invention(fused, settings)


def changed_name(fused: Fused, _: RuleSettings) -> bool:
    """``changed_name``: a name of the raw caption is replaced by a name that neither source has.

    Example: "Zofia Naylor" for "Josh Naylor". Fused and raw caption share a word ("Naylor"). The fused caption has the
    new name beside this word, where the raw caption has the old name. The spellings of the two names differ clearly. If
    the shared word is a grammar word or a number, the old name must also be missing from the rest of the fused caption.
    The raw caption's first word also counts as a name if it is capitalised and the fused caption lacks it.

    The rule skips raw captions in non-Latin scripts, because the model translates their names. Rejects none of
    CapsFusion's published captions.
    """
    new = [fact for fact in fused.invented_facts if not fact.isdigit() and len(fact) > 2]
    if not new or words_not_latin(fused.raw):
        return False
    caption, raw = _pairs_of_words(fused.caption_words), _pairs_of_words(fused.raw_words)
    return any(_takes_a_place(name, caption, raw, fused) for name in new)


Neighbours = dict[tuple[str, int], set[str]]  # (word, 1) → the words after it; (word, -1) → the words before it


def _takes_a_place(name: str, caption: Neighbours, raw: Neighbours, fused: Fused) -> bool:
    first = _lost_first_word(fused)
    for (beside, side), found in caption.items():
        if name not in found:
            continue
        is_word = beside.isalpha() and beside not in FUNCTION_WORDS
        for other in raw.get((beside, side), set()) - found:
            # The name replaces no word if the caption still has ``other`` next to the name: "Valentine's Day card",
            # where the raw caption has "Valentine card".
            if not other.isalpha() or other in caption.get((name, side), set()):
                continue
            # No replacement: the name is part of a written-out abbreviation, such as "Real Estate" for "REIT".
            if name[0] in other and other.upper() in fused.raw:
                continue
            known = other in fused.lost_facts or (other in fused.raw_facts and is_word)
            known = known or (other == first and beside not in FUNCTION_WORDS)
            if known and SequenceMatcher(None, name, other).ratio() < 0.6:
                return True
    return False


def _lost_first_word(fused: Fused) -> str | None:
    """The raw caption's first word, if it is capitalised and the fused caption lacks it. It is not always a name."""
    first = base_form(fused.raw_words[0]) if fused.raw_words and fused.raw[0].isupper() else None
    return None if first in fused.caption_content else first


def _pairs_of_words(words: Sequence[str]) -> Neighbours:
    found: Neighbours = {}
    for one, other in pairwise(map(base_form, words)):
        found.setdefault((one, 1), set()).add(other)
        found.setdefault((other, -1), set()).add(one)
    return found


def changed_colour(fused: Fused, _: RuleSettings) -> bool:
    """``changed_colour``: a colour of a source is replaced by a colour that neither source has.

    Either the caption lacks a colour of a source ("a brown car" for "a red car"), or the new colour precedes a word
    that has another colour in a source ("the red brand's brown car" for "the red brand's red car"). Shades of a colour
    and its names in other languages count as the same colour. A shade between two colours counts as both colours, so
    "blue" and "green" are both allowed for "teal".
    """
    plain = PLAIN_COLOURS & fused.caption_set
    if not plain:
        return False
    unsaid = [word for word in plain if word not in fused.sources_lower]
    new = colours_of(words_of_other_colours(unsaid, fused.source_words))
    if not new:
        return False
    return bool(words_of_other_colours(fused.source_words, fused.caption_words)) or _on_the_same_word(new, fused)


def _on_the_same_word(new: set[str], fused: Fused) -> bool:
    """Whether a word follows a ``new`` colour in the caption, but follows only other colours in the sources."""
    caption, sources = _coloured(fused.caption_words), _coloured(fused.source_words)
    return any(found & new and word in sources and sources[word].isdisjoint(found) for word, found in caption.items())


def _coloured(words: Sequence[str]) -> dict[str, set[str]]:
    """Word → the colours directly before it."""
    found: dict[str, set[str]] = {}
    for colour, word in pairwise(words):
        if colour in COLOURS_OF and word not in FUNCTION_WORDS:
            found.setdefault(base_form(word), set()).update(COLOURS_OF[colour])
    return found


def colours_of(words: Iterable[str]) -> set[str]:
    """The colours that ``words`` may stand for."""
    return {colour for word in words for colour in COLOURS_OF.get(word, ())}


def words_of_other_colours(words: Iterable[str], others: Iterable[str]) -> list[str]:
    """The colour words among ``words`` that share no colour with ``others``."""
    known = colours_of(others)
    return [word for word in words if word in COLOURS_OF and COLOURS_OF[word].isdisjoint(known)]


def unsupported(fused: Fused, settings: RuleSettings) -> bool:
    """``unsupported``: most content words of the caption are in neither source, as if it were about another picture.

    The model wrote such a caption from memory, or the caption belongs to another picture. The rule rejects a caption
    if at least five of its content words, and at least 80% of them, are in neither source. A share of 65% is enough if
    the caption also keeps at most a quarter of the synthetic caption's content words.
    """
    new, content = len(fused.unsupported), len(fused.caption_content)
    if new < settings.unsupported_min or new < settings.unsupported_max * content:
        return False
    kept = len(fused.synthetic_content & fused.caption_content)
    return 4 * kept <= len(fused.synthetic_content) or 5 * new >= 4 * content


def little_support(fused: Fused, settings: RuleSettings) -> bool:
    """``little_support``: at least nine, or at least 55%, of the caption's content words are in neither source.

    A share of 55% is enough only if these are at least five words.
    """
    new = len(fused.unsupported)
    return new >= 9 or (new >= settings.unsupported_min and new >= 0.55 * len(fused.caption_content))


def denial(fused: Fused, _: RuleSettings) -> bool:
    """``denial``: the caption says what something is not, and no source contains a denial.

    In such captions, the model discusses its sources ("is not a temple made out of paper", "not to be confused with").
    Denials inside quotation marks do not count.
    """
    if not any(hint in fused.caption_lower for hint in _DENIAL_HINTS):
        return False
    own = fused.own_words.lower().replace("’", "'")
    return DENIAL.search(own) is not None and _SOURCE_DENIAL.search(fused.sources_lower) is None


def loose_link(fused: Fused, _: RuleSettings) -> bool:
    """``loose_link``: a phrase that often joins unrelated sources ("as indicated by", ", while the")."""
    hinted = ", while " in fused.caption_lower or not _LINK_HINTS.isdisjoint(fused.caption_set)
    return hinted and says_unlike_sources(LOOSE_LINK, fused)


def general_talk(fused: Fused, _: RuleSettings) -> bool:
    """``general_talk``: a general statement about the subject that neither source makes ("is known for", "often")."""
    if any(word not in fused.sources_lower for word in TALK_WORDS & fused.caption_set):
        return True
    return not _TALK_HINTS.isdisjoint(fused.caption_set) and says_unlike_sources(GENERAL_TALK, fused)
