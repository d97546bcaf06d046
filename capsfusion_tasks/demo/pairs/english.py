"""Some rules of English: articles, plurals, agreement of verbs, capitals of titles."""

from __future__ import annotations

import re
from collections.abc import Callable

from capsfusion_tasks.demo.pairs.words import words_of

_SMALL = frozenset(words_of("small_word"))  # words such as "of", which have no capital in a title
MASS = frozenset(words_of("mass_noun"))  # mass nouns, which take no article
_MASS_ENDINGS = tuple(f" {noun}" for noun in sorted(MASS))
_COUNTED = re.compile(r"(?:two|three|four|five|six|several|some|many|people|men|women|children|friends)\b(?!-)")
_PLURAL = re.compile(
    r"(?<!s)(?<!u)(?<!i)s$(?<!canvas)(?<!lens)(?<!gas)(?<!news)(?<!series)|(?:people|(?<!ra)men|children)$"
)
_AFTER_HEAD = re.compile(r" (?:of|with|in|on|at|by|from|for|that|called|holding|wearing|carrying|playing) | \(")


def capital(text: str) -> str:
    """`text` with its first letter in upper case. The rest stays unchanged."""
    return text[:1].upper() + text[1:]


def is_plural(phrase: str) -> bool:
    """Whether a noun phrase such as `black boots with a zipper` needs a verb in the plural."""
    if _COUNTED.match(phrase):
        return True
    if phrase.startswith(("a ", "an ", "its ")):
        return " and " in phrase.split(" with ")[0]
    head = _AFTER_HEAD.split(phrase)[0]
    return " and " in head or _PLURAL.search(head) is not None


def with_article(phrase: str) -> str:
    """`phrase` with an indefinite article before it, if it needs one."""
    if (
        is_plural(phrase)
        or phrase.endswith(_MASS_ENDINGS)
        or phrase in MASS
        or phrase.startswith(("a ", "an ", "the ", "some "))
    ):
        return phrase
    return f"a {phrase}"


def plural(noun: str) -> str:
    if is_plural(noun):
        return noun
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def title_case(phrase: str) -> str:
    """`phrase` as in a title: without its article, and with capitals in all words except words such as "of"."""
    words = phrase.removeprefix("a ").removeprefix("an ").split(" ")
    return " ".join(word if place and word in _SMALL else capital(word) for place, word in enumerate(words))


# Modifiers that change how a slot (a placeholder in a caption template) is written, such as `.T` in `{thing.T}`.
WRITING: dict[str, Callable[[str], str]] = {
    "T": title_case,
    "C": capital,
    "l": str.lower,
    "a": with_article,
    "ga": with_article,
    "s": plural,
    "q": lambda text: text if '"' in text else f'"{text}"',
}
# Modifiers that write a word or an ending instead of the slot's text. The word agrees with this text: `{thing.is}`
# becomes "is" or "are". Modifier → (singular, plural).
AGREEMENT = {
    "is": ("is", "are"),
    "was": ("was", "were"),
    "has": ("has", "have"),
    "v": ("s", ""),
    "ies": ("ies", "y"),
    "It": ("It", "They"),
    "it": ("it", "they"),
    "them": ("it", "them"),
    "This": ("This", "These"),
    "A": ("a ", ""),
}

_SMALL_REPAIRS = (
    (re.compile(r"\b([Aa]) (?=(?!uni|use|one|eu|ur|U\b|UK|US)[aeiouAEIOU8])"), r"\1n "),
    (re.compile(r"\b([Ii]n|[Ff]rom|to|of) (?=\d{3}0s\b)"), r"\1 the "),
    (re.compile(r" +"), " "),
    (re.compile(r" ([,.:;])(?=\s|$)"), r"\1"),
    (re.compile(r",(?=[,.])"), ""),
    (re.compile(r"([.!?])\.(?=\s|$)"), r"\1"),
    (re.compile(r"\b(?:the|a|an) (?=(?:the|The) )"), ""),
)


def repaired(text: str) -> str:
    """`text` with "an" before vowels, and without repeated spaces, punctuation marks or articles."""
    for pattern, replacement in _SMALL_REPAIRS:
        text = pattern.sub(replacement, text)
    return text.strip()
