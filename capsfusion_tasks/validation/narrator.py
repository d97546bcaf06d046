"""Finds the first person in a caption: words with which the writer speaks of himself or herself.

The words beside a pronoun show whether a narrator speaks. Other words stand beside the numeral I ("World War I"), and
beside a pronoun in a title ("What We Do in the Shadows", "Our Lady of Peace") or a slogan.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from capsfusion_tasks.validation import titles
from capsfusion_tasks.validation.text import FUNCTION_WORDS, QUOTATION, word_set

# Only captions with one of these words are searched for a narrator, because looking up words in a set is faster than
# running patterns.
HINTS = word_set("i i'm i've i'd i'll we we're we've we'd we'll my our me us myself ourselves")
_PRONOUN = re.compile(
    r"(?<![\w'’&#@/.-])(I|[Ww]e|[Mm]y|[Oo]ur|me|us|myself|ourselves)(['’](?:m|ve|d|ll|re))?(?![\w'’-])"
)
_REACH = 80  # characters that are read before and after a pronoun; this limit bounds the search time

# A caption may tell what others say, with quotation marks or without ("a sign that reads I love you"). Without
# quotation marks, what others say is assumed to end with the sentence.
_SINGLE_QUOTES = re.compile(r"(?<!\w)['‘]\w(?:[^'’]|(?<=\w)['’](?=\w)){0,200}['’](?!\w)")
_SPEECH = re.compile(
    r"\b(?:(?:says?|said|saying|reads|states|stating|proclaims|declares|titled|entitled|captioned)\b(?!,? \")"
    r"|(?:words?|printed|written)[,:]? (?=(?:I|[Ww]e|[Mm]y|[Oo]ur)\b)|(?:reading|read)[,:]? (?=(?:I|We|My|Our)\b)"
    r"|(?:phrase|text|slogan|motto|message|lyrics|quote|inscription|caption|lettering)(?:[,:] | (?=I\b))"
    r"|[Aa]ccording to the (?:\w+ )?(?:sign|sticker|shirt|text|quote|poster|plaque|label|card|caption)\b)[^.!?]*"
)

_SENTENCE_START = re.compile(r"(?:\A|[.!?:;\"”)\]…–—-] )\Z")
_LAST_WORD = re.compile(r"([\w'’-]+) \Z")
_NEXT_IS_LOWER = re.compile(r"(?: |, )[a-z]")
_NEXT_CAPITAL = re.compile(r" ([A-Z][\w'’-]*)")

# A narrator's "I" or "we" does not follow one of these words, but the pronoun of a slogan may: "the I love you mug".
_NO_SUBJECT_AFTER = word_set("a an the this with of by for to at on from")
# These words follow the numeral of "Henry I of England" or "Charles I is", but not the subject "I".
_NO_VERBS = word_set("of in on at by from for with to and or nor is has as the a an vs until through during into era")
# The numeral I may follow one of these words ("type I") or a name ("Elizabeth I").
_NUMBERED = word_set(
    "type class part phase volume vol level grade stage factor chapter schedule tier category act scene section"
    " division war wars group zone area mark mk model series version bowl article title unit lot plate generation gen"
    " block appendix region district letter letters vitamin numeral initial capital form axis photosystem collagen"
)
_RULERS = word_set(
    "king queen emperor empress pope tsar czar kaiser prince princess duke saint st sultan shah archduke"
)
_ADVERBS = word_set(
    "yesterday today now once recently finally sometimes maybe perhaps although though because since unless"
)
_DATES = word_set(
    "january february march april may june july august september october november december monday tuesday wednesday"
    " thursday friday saturday sunday christmas easter"
)
_AT_A_TIME = word_set("in on last next this every since")
# After a name, "I" may be a numeral. A verb of _OWN_VERB after "I" shows that "I" is a pronoun: "the Nikon I bought".
_NAME_BEFORE = re.compile(
    r"\b(?:[Tt]he|an?|[Tt]his|[Tt]hat|[Mm]y|[Oo]ur|[Ii]n|[Aa]t|[Oo]n|[Ff]rom) ((?:[A-Z0-9][\w'’-]* ){1,4})\Z"
)
_OWN_VERB = re.compile(
    r" (?:am|have|do|don['’]t|need|want|love|like|think|use|used|got|made|found|bought|created|decided|discovered|took"
    r"|saw|wrote|went|visited|ordered|received|own|wear|shot|met)\b"
)
_TOOK_IT = re.compile(
    r" (?:took|shot|captured|photographed)(?:[.,]|\Z| (?:in|on|at|from|during|while|when|last|with)\b)"
)

# "Our" does not show a narrator before things that all people share: "the planets of our solar system".
_SHARED = re.compile(
    r" (?:\w+ )?(?:world|planets?|earth|sun|moon|galaxy|solar system|universe|oceans?|atmosphere|environment|climate"
    r"|species|ancestors|li[fv]es|bod(?:y|ies)|well-being|health|times?|society|civili[sz]ation|humanity|[Ll]ord|[Ss]aviou?r|[Ll]ady)\b"
)

_PAST = r"[^\We]ed|gave|told|took|brought|sent|showed|taught|led|left|made|found|met|got"
_NARRATOR_IS_OBJECT = {
    "me": re.compile(
        rf"(?:\b(?:with|to|for|by|of|from|behind|beside|near|at|on|like|than|and)|{_PAST}|[^\Ws]s|\w\w[^\W]ing) \Z"
    ),
    # Does not match phrases such as "connects us", "around us" and "some of us", because "us" means all people there.
    "us": re.compile(
        rf"(?:\b(?:with|to|for|by|from|behind|beside|near|at|on|like)|{_PAST}"
        r"|(?<!all)(?<!both)(?<!each)(?<!some)(?<!most)(?<!many)(?<!rest)(?<!one) of) \Z"
    ),
}


class _Place(NamedTuple):
    """A pronoun in a caption. ``before``, ``after``: the text on its two sides. ``sources``: both source captions."""

    pronoun: str
    short: bool  # written together with a verb: "I'm"
    before: str
    after: str
    sources: str

    @property
    def last_word(self) -> str:
        found = _LAST_WORD.search(self.before)
        return found[1] if found else ""

    @property
    def begins_sentence(self) -> bool:
        return _SENTENCE_START.search(self.before) is not None


def first_persons(text: str, sources: str) -> Iterator[tuple[int, int]]:
    """The spans (start, end) where ``text`` speaks in the first person, except in quotations and in titles.

    ``sources``: both source captions. They show which words are a title, or are printed in the picture.
    """
    own = _narration(text)
    for match in _PRONOUN.finditer(own):
        start, end = match.span()
        before, after = own[max(0, start - _REACH) : start], own[end : end + _REACH]
        if start > _REACH:
            before = f" {before}"  # so that this text does not look like the start of the caption
        place = _Place(match[1], match[2] is not None, before, after, sources)
        following = re.match(r" [\w'’-]+", after)
        end += following.end() if following else 0
        if _IS_NARRATOR[match[1].lower()](place) and not _is_printed(own[start:end].lower(), sources):
            yield start, end


def _narration(text: str) -> str:
    """``text`` with each character of quoted or reported speech replaced by a quotation mark. Keeps the length."""
    for pattern in (QUOTATION, _SINGLE_QUOTES, _SPEECH):
        text = pattern.sub(lambda said: '"' * len(said[0]), text)
    return text


def _is_printed(words: str, sources: str) -> bool:
    """Whether ``sources`` say that ``words`` are in the picture, as in "a sign that says welcome to our house".

    Only words that begin with "we" or "our" are looked up, because these pronouns may mean all people.
    """
    return words.startswith(("we ", "our ")) and any(words in said[0].lower() for said in _SPEECH.finditer(sources))


def _is_subject(place: _Place) -> bool:
    """Whether "I" or "we" is the subject of a statement.

    If so, the next word is in lower case, and the previous word is no article or preposition. The "I" of a slogan may
    follow an article: "the I love you mug".
    """
    word = place.last_word
    if word.lower() in _NO_SUBJECT_AFTER or _begins_a_title(place):
        return False
    following = _NEXT_CAPITAL.match(place.after)
    if place.short:
        return following is None or place.begins_sentence
    return following is None and _NEXT_IS_LOWER.match(place.after) is not None


def _i(place: _Place) -> bool:
    if not _is_subject(place):
        return False
    if place.short:
        return True
    following = re.match(r",? ([\w'’-]+)", place.after)
    if following and following[1] in _NO_VERBS:
        return False
    word = place.last_word
    if not word or not word[0].isalpha():
        return True
    if word.lower() in _NUMBERED:
        return word.islower() and _OWN_VERB.match(place.after) is not None
    return word[0].islower() or _follows_a_word_of_grammar(place, word) or _follows_a_name_as_subject(place, word)


def _follows_a_word_of_grammar(place: _Place, word: str) -> bool:
    """Whether "I" follows a date ("in May I"), or a word such as "When" or "Recently" that begins the sentence."""
    before = place.before[: -len(word) - 1]
    lower = word.lower()
    if lower in _DATES:
        preceding = _LAST_WORD.search(before)
        return preceding is not None and preceding[1].lower() in _AT_A_TIME
    if _SENTENCE_START.search(before) is None:
        return False
    return lower in FUNCTION_WORDS or lower in _ADVERBS or lower.endswith("ly")


def _follows_a_name_as_subject(place: _Place, word: str) -> bool:
    """Whether "I" follows a name, but is no numeral: "the Nikon I bought", "In Rome I saw"."""
    if _TOOK_IT.match(place.after):
        return word.lower() not in _RULERS
    name = _NAME_BEFORE.search(place.before)
    names = set(name[1].lower().split()) if name else set()
    return bool(names) and names.isdisjoint(_RULERS | _NUMBERED) and _OWN_VERB.match(place.after) is not None


def _we(place: _Place) -> bool:
    if place.pronoun == "We" and not place.begins_sentence:
        return False  # a title: "What We do"
    return _is_subject(place) and not (place.last_word == "as" and place.after.startswith(" know"))


def _begins_a_title(place: _Place) -> bool:
    """Whether the pronoun begins a title.

    Words are a title if the sources have these words in title case ("We Are Shining Cards"), or if the words are the
    subject of a sentence ("I am Legend is a film").
    """
    following = re.match(r"((?:['’]\w+)?(?: [\w'’]+)?)\W+([A-Z]\w*)", place.after)
    if following:
        title = " ".join(word[0].upper() + word[1:] for word in f"{place.pronoun}{following[1]}".split())
        if f"{title} {following[2]}" in place.sources:
            return True
    return place.begins_sentence and titles.is_subject(f"{place.pronoun}{place.after}")


def _owner(place: _Place) -> bool:
    """Whether a narrator says "my" or "our". A capital after the pronoun may show a title: "My Little Pony"."""
    lower = place.pronoun.lower()
    if place.last_word.lower() in ("a", "an", "the", "oh") or (lower == "our" and _SHARED.match(place.after)):
        return False
    following = _NEXT_CAPITAL.match(place.after)
    if place.pronoun == lower:
        word = re.match(r" ([a-z])([\w'’]*)", place.after)
        if word and f" {lower} {word[1].upper()}{word[2]}" in place.sources:  # the title "Turtles in our Wake"
            return False
        return following is None or f"{lower.title()} {following[1]}" not in place.sources
    if not place.begins_sentence:
        return False
    if following is None:
        return _NEXT_IS_LOWER.match(place.after) is not None and not _begins_a_title(place)
    return f"{lower} {following[1]}" in place.sources


def _object(place: _Place) -> bool:
    """Whether "me" or "us" means a narrator: only after certain words ("with me"), not in a name ("forget me not")."""
    found = _NARRATOR_IS_OBJECT[place.pronoun].search(place.before)
    return found is not None and _NEXT_CAPITAL.match(place.after) is None and not place.before.endswith("you and ")


_IS_NARRATOR: dict[str, Callable[[_Place], bool]] = {
    "i": _i,
    "we": _we,
    "my": _owner,
    "our": _owner,
    "me": _object,
    "us": _object,
    "myself": lambda _: True,
    "ourselves": lambda _: True,
}
