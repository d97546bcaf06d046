"""Finds the numbers of a caption that its sources do not have in any notation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Set

_CARDINALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ROMAN = "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx"

NUMBER_WORDS = {word: str(number) for names in (_CARDINALS, _ORDINALS) for number, word in enumerate(names.split())}
# Number words, without words that are mostly grammar ("one of the photos", "second-hand").
_COUNTS = {word: number for word, number in NUMBER_WORDS.items() if number > "1" and word != "second"}
# Words of a source that the caption may replace by a number.
_TWO = dict.fromkeys(["pair", "both", "double", "dual", "twin", "couple", "duo", "twice", "half"], "2")
_MORE = {"triple": "3", "trio": "3", "quad": "4", "quarter": "4", "quartet": "4", "dozen": "12", "hundred": "100"}
_NUMERALS = {numeral: str(number) for number, numeral in enumerate(_ROMAN.split(), 1)}
_FORMS = {**_NUMERALS, **_TWO, **_MORE, **NUMBER_WORDS}

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_RUN = re.compile(r"\d+")
_NO_SEPARATORS = str.maketrans("", "", ".,:")
_NO_FRACTION = re.compile(r"[.,]00?\Z")
_THOUSANDS = re.compile(r"(\d+)(?:[.,]\d+)?\s?k\b", re.IGNORECASE)
_CENTURY = re.compile(r"(\d+)(?:st|nd|rd|th)[ -]century")


def invented_numbers(caption: str, words: Set[str], sources: str, source_words: Collection[str]) -> list[str]:
    """The numbers of ``caption``, as written, that ``sources`` do not have in any form.

    ``sources``: both source texts. ``words``: the words of the caption. ``source_words``: the words of the sources.
    Examples of two forms of a number: "three" and "III"; "3rd Jan." and "January 3"; "2008" and "'08"; "5,000" and
    "5k"; "18:00" and "6 pm".
    """
    counted = sorted((_COUNTS.keys() & words).difference(source_words))
    written = _NUMBER.findall(caption)
    if not counted and not written:
        return []
    runs = _RUN.findall(sources)
    if not sources.isascii():  # NFKC makes 8 of "８" (full-width), but 81⁄2 of "8½", so keep ``runs`` too
        runs += _RUN.findall(unicodedata.normalize("NFKC", sources))
    quick = set(runs)
    doubtful = [number for number in written if number not in quick]
    if not doubtful and not counted:
        return []
    known = _known(sources, runs, source_words)
    found = [number for number in doubtful if not _is_known(number, known, runs)]
    if found and "century" in words:
        found = _without_centuries(found, caption, known)
    return found + _invented_counts(counted, known, _RUN.findall(caption), words, source_words)


def _invented_counts(
    counted: list[str], known: set[str], digits: list[str], words: Set[str], source_words: Collection[str]
) -> list[str]:
    """The number words in ``counted`` that neither source has in any form.

    The word "two" is allowed, because it may count items that a source lists ("two smartphones"). If the caption drops
    a number word of a source, "two" may replace this number and is not allowed.
    """
    new = [word for word in counted if _COUNTS[word] not in known]
    if not new:
        return []
    kept = {*digits, *(_FORMS[word] for word in words if word in _FORMS)}
    dropped = any(word in _COUNTS and _COUNTS[word] not in kept for word in source_words)
    return [word for word in new if dropped or int(_COUNTS[word]) > 2]


def _known(text: str, runs: list[str], words: Collection[str]) -> set[str]:
    """All forms of the numbers in ``text``, as digits without separators, with and without leading zeros."""
    # A long run of digits may begin with a date, as in file names ("061208"). So its first pairs of digits ("06", "12",
    # "08") also count as numbers.
    runs = [*runs, *(run[i : i + 2] for run in runs if len(run) >= 6 for i in range(0, 8, 2))]
    known = {*runs, *(run.lstrip("0") or "0" for run in runs)}
    known.update(century + run for run in runs if len(run) == 2 for century in ("19", "20"))  # "07-14", "'95 Mustang"
    known.update(_whole(number) for number in _NUMBER.findall(text))
    known.update(thousands + "000" for thousands in _THOUSANDS.findall(text))
    known.update(_FORMS[word] for word in words if word in _FORMS)
    known.update(_FORMS[word[:-1]] for word in words if word[-1] == "s" and word[:-1] in _FORMS)
    return known


def _whole(number: str) -> str:
    """``number`` without separators, leading zeros and zeros after the decimal point ("24" for "24.00")."""
    return _NO_FRACTION.sub("", number).translate(_NO_SEPARATORS).lstrip("0") or "0"


def _is_known(number: str, known: set[str], runs: list[str]) -> bool:
    """Whether a source has ``number``, or the same parts in a row ("2-1" for "2:1").

    ``runs``: the sources' runs of digits, in order.
    """
    if _whole(number) in known:
        return True
    parts = _RUN.findall(number)
    size = len(parts)
    if size == 1:
        return False
    if any(runs[at : at + size] == parts for at in range(len(runs) - size + 1)):
        return True
    return ":" in number and bool({str(int(parts[0]) + 12), str(int(parts[0]) - 12)} & known)  # "6:00" for "18:00"


def _without_centuries(found: list[str], caption: str, known: set[str]) -> list[str]:
    """``found`` without centuries that match a year of a source: "19th century" matches "1850"."""
    years = {int(year) for year in known if len(year) == 4 and year.isdecimal()}
    centuries = {century[1] for century in _CENTURY.finditer(caption)}
    return [
        number for number in found if number not in centuries or not any(y // 100 + 1 == int(number) for y in years)
    ]
