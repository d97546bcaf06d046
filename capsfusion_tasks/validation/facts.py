"""Names and numbers: what a raw caption knows, what a caption must not lose, and must not make up.

Without a model of language, a name is a word with a capital letter and a number is a word with a digit. Where a raw
caption is written in capitals or As A Title, each of its content words counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;…]|[\"“«‘(\[|•–—-](?=[^\W_]))[\s\"'“”‘’«»()\[\]]*")

# Words that no fact is made of although a title writes them with a capital.
_ARTICLES = "a an the this that these those some any all each both other"
_CONJUNCTIONS = "and or nor but if then than so as when where why how while"
_PREPOSITIONS = (
    "of in on at by for from to with without into onto over under up down out off near about after before between"
    " during via per vs through"
)
_PRONOUNS = (
    "i me my i'm we us our you your he him his she her hers it its it's they them their who whom whose which what there"
    " here"
)
_VERBS = (
    "is are was were be been being am do does did done have has had will would can could shall should may might must"
)
_ADVERBS = "not no such also very more most"
_FUNCTION_WORDS = frozenset(f"{_ARTICLES} {_CONJUNCTIONS} {_PREPOSITIONS} {_PRONOUNS} {_VERBS} {_ADVERBS}".split())
_CARDINALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_NUMBERS = {word: str(number) for names in (_CARDINALS, _ORDINALS) for number, word in enumerate(names.split())}
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")


def base_form(word: str) -> str:
    """A case-folded word as facts are compared: no plural or possessive, numbers as digits."""
    if number := _NUMBERS.get(word):
        return number
    if word[0].isdigit():
        ordinal = _ORDINAL.fullmatch(word)
        return ordinal[1] if ordinal else word
    return word.removesuffix("'s").removesuffix("s") if len(word) > 3 else word


def base_forms(words: Iterable[str]) -> frozenset[str]:
    return frozenset(map(base_form, words))


def facts(text: str, *, sentence_starts: bool) -> frozenset[str]:
    """The base forms of the names and numbers in ``text``.

    ``sentence_starts``: whether a capital at the start of a sentence makes a name.
    """
    text = unicodedata.normalize("NFKC", text)
    starts = set() if sentence_starts else {match.end() for match in _SENTENCE_START.finditer(text)}
    found = set()
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.islower() and token.isalpha():
            continue
        folded = token.casefold().replace("’", "'")
        is_number = any(map(str.isdigit, token))
        is_name = token != token.lower() and match.start() not in starts and folded not in _FUNCTION_WORDS
        if is_number or is_name:
            found.add(base_form(folded))
    return frozenset(found)
