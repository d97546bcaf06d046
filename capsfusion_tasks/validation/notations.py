"""Notations of numbers other than digits: number words, Roman numerals, short years, the 12-hour clock, millions."""

from __future__ import annotations

import re
from collections.abc import Collection
from decimal import Decimal

_CARDINALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen"
)
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_LATER_ORDINALS = "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"

TENS = {word: str(number) for number, word in enumerate(_TENS.split(), 2)}  # "thirty" → "3"
_UNITS = {word: str(n) for names in (_CARDINALS, _ORDINALS) for n, word in enumerate(names.split()[1:10], 1)}
_EARLY = {word: str(n) for names in (_CARDINALS, _ORDINALS) for n, word in enumerate(names.split())} | {
    word: f"{digit}0" for word, digit in TENS.items()
}
NUMBER_WORDS = _EARLY | {word: str(number) for number, word in enumerate(_LATER_ORDINALS.split(), 13)}
# Number words that a caption must not invent. "one", "first" and "second" are left out, because they are mostly grammar
# ("one of the photos", "second-hand"). Ordinals from "thirteenth" on are left out, because they mostly name centuries
# ("nineteenth century" for 1850).
COUNTS = {word: number for word, number in _EARLY.items() if number > "1" and word != "second"}

# Words of a source caption that the fused caption may replace by a number: "2 shoes" for "a pair of shoes".
_TWO = dict.fromkeys(["pair", "both", "double", "dual", "twin", "couple", "duo", "twice", "half"], "2")
_MORE = {"triple": "3", "trio": "3", "quad": "4", "quarter": "4", "quartet": "4", "dozen": "12", "hundred": "100"}
_ROMAN = {
    tens + unit: str(10 * ten + one)
    for ten, tens in enumerate(["", "x", "xx", "xxx", "xl", "l", "lx", "lxx", "lxxx", "xc"])
    for one, unit in enumerate(["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"])
    if tens + unit not in ("", "l", "xl")  # L and XL are mostly sizes of clothes
}
# Word of a source caption → the number that the fused caption may have in its place.
FORMS = {**_ROMAN, **_TWO, **_MORE, **NUMBER_WORDS}

_COMPOUND = re.compile(rf"\b({'|'.join(TENS)})[ -]({'|'.join(_UNITS)})\b([ -]century\b)?", re.IGNORECASE)
_CENTURY = re.compile(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)[ -]century")
_SCALED = re.compile(
    r"(?<![\d.,])(\d{1,6}(?:[.,]\d{1,3})?)[ -]?(?:((?i:k|thousand))|((?i:million)|M)|((?i:billion)|B))\b"
)
_SHORT_YEAR = re.compile(r"(?<!\d)['’‘](\d\d)\b")
_DECADE = re.compile(r"\b((?:19|20)?\d0)['’]?s\b")
_HOUR = re.compile(r"\b(\d{1,2}) ?(?:p\.?m\b|o['’]clock\b)", re.IGNORECASE)


def compounds(text: str) -> set[str]:
    """The values of the two-part number words in ``text``: "25" for "Twenty-five", "21" for "twenty one"."""
    return {_value(match) for match in _COMPOUND.finditer(text)}


def without_compounds(text: str, known: Collection[str]) -> str:
    """``text`` without the two-part number words ("twenty-five") whose value is in ``known``, the sources' numbers.

    Also removes a century ("twenty-first century") if a year of this century is in ``known``.
    """
    centuries = _centuries(known)
    return _COMPOUND.sub(lambda m: " " if _value(m) in known or (m[3] and _value(m) in centuries) else m[0], text)


def _value(compound: re.Match[str]) -> str:
    return TENS[compound[1].lower()] + _UNITS[compound[2].lower()]


def scaled(text: str) -> dict[str, str]:
    """Number as written → value in digits, for numbers before "k", "thousand", "million" or "billion" in ``text``.

    Example: "1.5" → "1500000" for the text "1.5 million views".
    """
    return {
        match[1]: str(int(Decimal(match[1].replace(",", ".")) * 1000 ** (match.lastindex - 1)))
        for match in _SCALED.finditer(text)
        if match.lastindex
    }


def explained(caption: str, sources: str, runs: Collection[str], known: Collection[str]) -> set[str]:
    """The numbers of ``caption`` that, with the words or signs beside them, restate a number of ``sources``.

    Examples: "'85" and "80s" for 1985, "19th century" for 1850, "6 pm" for 18:00, "1.5 million" for 1,500,000.
    ``runs``: the sources' runs of digits. ``known``: all forms of the sources' numbers.
    """
    years = {run for run in runs if len(run) == 4 and run.startswith(("19", "20"))}
    ends = {year[2:] for year in years}
    decades = {f"{year[:3]}0" for year in years} | {f"{year[2]}0" for year in years}
    centuries = _centuries(known)
    return {
        *(match[1] for match in _SHORT_YEAR.finditer(caption) if match[1] in ends),
        *(match[1] for match in _DECADE.finditer(caption) if match[1] in decades),
        *(match[1] for match in _CENTURY.finditer(caption) if match[1] in centuries),
        *(match[1] for match in _HOUR.finditer(caption) if re.search(rf"\b{int(match[1]) + 12}[:.h]", sources)),
        *(written for written, value in scaled(caption).items() if value in known),
    }


def _centuries(known: Collection[str]) -> set[str]:
    """The centuries of the years in ``known``: "19" for 1850."""
    return {str(int(year) // 100 + 1) for year in known if len(year) == 4 and year.isdecimal()}
