"""Facts of a caption: its names and numbers. A fused caption must keep the facts of the raw caption and invent none.

A name is a word with a capital letter. A number is a word with a digit. These definitions need no language model, but
they have a limit: in a raw caption that is written in capitals or As A Title, each content word counts as a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache
from itertools import chain

from capsfusion_tasks.validation.language import words_not_latin
from capsfusion_tasks.validation.notations import NUMBER_WORDS
from capsfusion_tasks.validation.text import FUNCTION_WORDS

# Matches a word and the characters before it. The end of the text also counts as a word. Otherwise, matching would
# take quadratic time for a text that ends in many punctuation characters.
_TOKENS = re.compile(r"([\W_]*)([^\W_]+(?:['’][^\W_]+)*|\Z)")
# Characters before the first word of a sentence. ^$ is for the first word of the text, before which there are none.
_STARTS_SENTENCE = re.compile(r"^$|[.!?:;…|•–—]|[\"“«‘(\[-]$")
# Parts of raw captions that are not searched for names: HTML tags, web addresses, file names, and four or more words
# that are joined by hyphens or underscores.
_PICTURE_FILE = re.compile(r"\.(?:jpe?g|png|gif|webp)\b")
_NO_PROSE = re.compile(
    r"<[^>]{0,500}>|(?:https?://|www\.)\S+|\S{1,200}\.(?:jpe?g|png|gif|webp)\b|[^\s_-]{1,50}(?:[_-][^\s_-]{1,50}){3,}"
)
# Words that stock agencies add to every picture. They do not count as names.
_BOILERPLATE = "stock photo photos photograph photography picture pictures image images royalty free vector clipart"
_NO_NAMES = FUNCTION_WORDS | frozenset(_BOILERPLATE.split())

_MONTHS = "january february march april may june july august september october november december"
_CALENDAR = frozenset(f"{_MONTHS} monday tuesday wednesday thursday friday saturday sunday".split())
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_DIGITS = re.compile(r"\d+")
_ACRONYM = re.compile(r"\b[A-Z]{2,5}\b")
# What may stand between the initial letters of a written-out abbreviation, such as "International Association of
# Athletics Federations" for "IAAF".
_BETWEEN_INITIALS = r"\w{0,20}?\W?(?:(?:of|and|for|the|in) )?"


def raw_facts(text: str) -> frozenset[str]:
    """The base forms of the names and numbers in a raw caption.

    A capitalised word at the start of a sentence is a name only if the next word is also capitalised ("Neiman Marcus
    opens").
    """
    if "_" in text or "/" in text or text.count("-") > 2 or _PICTURE_FILE.search(text):
        text = _NO_PROSE.sub(" ", text)
    tokens = [*_tokens(text), ("", "")]
    return _facts(
        [
            word
            for place, (gap, word) in enumerate(tokens, 1)
            if not (word.islower() and word.isalpha())
            and word
            and (gap == " " or tokens[place][1][:1].isupper() or not _STARTS_SENTENCE.search(gap))
        ]
    )


def caption_facts(text: str) -> frozenset[str]:
    """The base forms of the names and numbers in a caption, except a name or number at the start of a sentence."""
    return _facts(
        [
            word
            for gap, word in _tokens(text)
            if not (word.islower() and word.isalpha()) and (gap == " " or not _STARTS_SENTENCE.search(gap))
        ]
    )


def _tokens(text: str) -> list[tuple[str, str]]:
    """The words of ``text`` as written, each with the characters between it and the previous word."""
    tokens: list[tuple[str, str]] = _TOKENS.findall(text)
    while tokens and not tokens[-1][1]:  # remove the entry for the end of the text
        tokens.pop()
    return tokens


def _facts(words: Iterable[str]) -> frozenset[str]:
    return frozenset(chain.from_iterable(map(_base_forms_of_fact, words)))


@lru_cache(1 << 16)
def _base_forms_of_fact(word: str) -> tuple[str, ...]:
    """The base form of ``word`` if it is a name or a number; otherwise empty.

    If Unicode normalisation splits ``word`` into several words, returns the base form of each.
    """
    folded = unicodedata.normalize("NFKC", word).casefold().replace("’", "'")
    is_name = word != word.lower() and folded not in _NO_NAMES
    return tuple(map(base_form, folded.split())) if is_name or _DIGITS.search(word) else ()


@lru_cache(1 << 16)
def base_form(word: str) -> str:
    """The form in which facts are compared: numbers as digits, other words without plural and possessive endings.

    ``word`` is case-folded.
    """
    if number := NUMBER_WORDS.get(word):
        return number
    if ordinal := _ORDINAL.fullmatch(word):
        return ordinal[1]
    return word.removesuffix("'s").removesuffix("s") if len(word) > 3 else word


def unsaid(facts: frozenset[str], words: Collection[str], forms: frozenset[str]) -> frozenset[str]:
    """The ``facts`` that a text lacks.

    ``words``: the text's words. ``forms``: the base forms of its content words. A text also contains a fact if it
    writes the fact as one word or two ("WhiteSox", "White Sox"), or in another form ("Italian" for "Italy").
    """
    missing = facts - forms
    missing = missing and missing.difference(words)
    if not missing:
        return missing
    text, together = " " + " ".join(words), "".join(words)
    return frozenset(fact for fact in missing if not _is_said(fact, text, together))


def _is_said(fact: str, text: str, together: str) -> bool:
    if numbers := _DIGITS.findall(fact):
        said = {number.lstrip("0") for number in _DIGITS.findall(text)}
        return all(number.lstrip("0") in said for number in numbers)
    return (len(fact) >= 3 and fact in together) or (len(fact) >= 5 and f" {fact[:4]}" in text)


def invented(
    facts: frozenset[str], caption: str, raw: str, source_words: Collection[str], source_forms: frozenset[str]
) -> frozenset[str]:
    """The ``facts`` of ``caption`` that no source has, not even as an abbreviation ("NYC", "Oct. 08", "Sask.").

    If the raw caption has words in a non-Latin script, one name is left out, because it may be a translation.
    """
    candidates = unsaid(facts, source_words, source_forms)
    if not candidates:
        return candidates
    written_out = _written_out(caption, raw, source_words)
    together = "".join(source_words)
    numbers = {number for word in source_words for number in _DIGITS.findall(word)}
    stems = tuple(word for word in source_words if len(word) >= 4)

    def is_expansion(fact: str) -> bool:
        if fact.isdigit():  # a number has several notations: "11,746" and "11746", "2008" and "'08"
            return fact in together or (len(fact) == 4 and fact[2:] in numbers)
        in_date = fact in _CALENDAR and bool(numbers)
        return in_date or fact in written_out or fact.startswith(stems)

    unexplained = sorted((fact for fact in candidates if not is_expansion(fact)), key=str.isdigit)
    return frozenset(unexplained[1:] if words_not_latin(raw) else unexplained)


def _written_out(caption: str, raw: str, source_words: Collection[str]) -> set[str]:
    """The base forms of the words with which ``caption`` spells out an acronym of a source ("New York" for "NY")."""
    acronyms = set() if raw.isupper() else set(_ACRONYM.findall(raw))
    acronyms |= {acronym for acronym in _ACRONYM.findall(caption) if acronym.lower() in source_words}
    found: set[str] = set()
    for acronym in acronyms:
        letters = _BETWEEN_INITIALS.join(acronym.lower())
        for match in re.finditer(rf"\b{letters}\w*", caption.lower()):
            found.update(map(base_form, match[0].split()))
    return found
