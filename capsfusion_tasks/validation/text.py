"""Splits texts into words, n-grams and sentences, and finds loops (repeated words, letters or signs).

Texts that differ only in case, in punctuation between words, or in character width (full-width letters) give the same
words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")

# Words of grammar, such as articles, which do not count as content.
_ARTICLES = "a an the this that these those some any all each both other"
_CONJUNCTIONS = "and or nor but if then than so as when where why how while"
_PREPOSITIONS = (
    "of in on at by for from to with without into onto over under up down out off near about after before between"
    " during via per vs through"
)
_PRONOUNS = (
    "i me my i'm we us our you your he him his she her hers it its it's they them their who whom whose which what"
    " there"
    " here"
)
_VERBS = (
    "is are was were be been being am do does did done have has had will would can could shall should may might must"
)
_SHORT_FORMS = (
    "i've i'll i'd you're you've we're they're don't doesn't didn't can't won't isn't aren't that's there's let's"
)
_ADVERBS = "not no such also very more most"
FUNCTION_WORDS = frozenset(
    f"{_ARTICLES} {_CONJUNCTIONS} {_PREPOSITIONS} {_PRONOUNS} {_VERBS} {_SHORT_FORMS} {_ADVERBS}".split()
)

# One to four letters, five or more times in a row ("hahahahaha"). Only words of at least ten letters are searched.
_LETTER_LOOP = re.compile(r"([^\W\d]{1,4}?)\1{4,}")
_LOOPING_WORD_LENGTH = 10
# The same sign ten or more times in a row, with or without spaces: "!!!!!!!!!!", "- - - - - - - - - -".
_SIGN_LOOP = re.compile(r"([^\w\s])(?:\s?\1){9,}")

QUOTATION = re.compile(r'"[^"]*"|“[^”]*”|«[^»]*»')
# A sentence ends only after a word of four or more characters, because the full stop after a shorter word may belong to
# an initial ("J. Smith") or a title ("Dr.", "St.").
_SENTENCE_END = re.compile(r"(?<=\w\w\w\w)[.!?][\"'”’)]*\s+(?=[\"'“(]?[A-Z])")


def word_set(text: str) -> frozenset[str]:
    """The set of the space-separated words in ``text``."""
    return frozenset(text.split())


def words(text: str) -> list[str]:
    """The words of ``text`` in order, NFKC-normalised and case-folded. "Don’t" becomes "don't"."""
    if text.isascii():
        return _WORD.findall(text.lower())
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("’", "'"))


def without_quotations(text: str) -> str:
    """``text`` with a space in place of each quotation, because a quotation is not the caption's own statement."""
    return QUOTATION.sub(" ", text) if '"' in text or "“" in text or "«" in text else text


def sentences(text: str) -> list[str]:
    """The sentences of ``text``, split where a capital follows a full stop, exclamation mark or question mark."""
    return _SENTENCE_END.split(text)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*[tokens[i:] for i in range(n)], strict=False))


def repeated_share(tokens: Sequence[str], n: int = 3) -> float:
    """Share of the n-grams of ``tokens`` that repeat an earlier n-gram. 0 if there are fewer than ``n`` tokens."""
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loop(text: str, tokens: Sequence[str]) -> str | None:
    """The part of ``text`` that is a loop. None if there is no loop. ``tokens``: the words of ``text``.

    A loop is a group of up to four words that occurs at least three times in a row, or repeated letters or signs
    ("hahahahaha", "- - - - - - - - - -").
    """
    said = _word_loop(tokens)
    if said is None:
        long = [token for token in tokens if len(token) >= _LOOPING_WORD_LENGTH]
        said = next(
            (token for token in long if len(set(token)) <= len(token) // 2 and _LETTER_LOOP.search(token)), None
        )
    if said is None and (signs := _SIGN_LOOP.search(text)):
        said = signs[0]
    return said


def _word_loop(tokens: Sequence[str]) -> str | None:
    # A quick check: a loop needs two repeated words and a repeated pair of neighbouring words.
    if len(set(tokens)) > len(tokens) - 2 or len(set(pairwise(tokens))) >= len(tokens) - 1:
        return None
    for size in range(1, 5):
        same = 0  # length of the current run of words that each equal the word ``size`` positions earlier
        for i in range(size, len(tokens)):
            same = same + 1 if tokens[i] == tokens[i - size] else 0
            if same == 2 * size:
                return " ".join(tokens[i + 1 - 3 * size : i + 1])
    return None


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """Whether ``tokens`` contain ``part`` as consecutive words."""
    return f" {' '.join(part)} " in f" {' '.join(tokens)} "
