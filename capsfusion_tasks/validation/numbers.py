"""Finds the numbers of a caption that its sources do not have in any notation."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Set

from capsfusion_tasks.validation.notations import COUNTS, FORMS, TENS, compounds, explained, scaled, without_compounds
from capsfusion_tasks.validation.text import words as words_of

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_RUN = re.compile(r"\d+")
_NO_SEPARATORS = str.maketrans("", "", ".,:")
_NO_FRACTION = re.compile(r"[.,]00?\Z")


def invented_numbers(caption: str, words: Set[str], sources: str, source_words: Collection[str]) -> list[str]:
    """The numbers of ``caption``, as written, that ``sources`` do not have in any form.

    ``sources``: both source texts. ``words``: the words of the caption. ``source_words``: the words of the sources.
    Examples of two forms of a number: "three" and "III"; "twenty-four" and "24"; "3rd Jan." and "January 3"; "2008" and
    "'08"; "5,000" and "5k"; "18:00" and "6 pm".
    """
    counted = sorted((COUNTS.keys() & words).difference(source_words))
    written = _NUMBER.findall(caption)
    if not counted and not written:
        return []
    runs = _RUN.findall(sources)
    if not sources.isascii():  # NFKC turns "８" (full-width) into 8, but "8½" into 81⁄2, so use both texts
        runs += _RUN.findall(unicodedata.normalize("NFKC", sources))
    quick = set(runs)
    doubtful = [number for number in written if number not in quick]
    if not doubtful and not counted:
        return []
    known = _known(sources, runs, source_words)
    if counted and not TENS.keys().isdisjoint(words):
        counted = sorted({*counted}.intersection(words_of(without_compounds(caption, known))))
    found = [number for number in doubtful if not _is_known(number, known, runs)]
    if found:
        restated = explained(caption, sources, runs, known)
        found = [number for number in found if number not in restated]
    return found + _invented_counts(counted, known, _RUN.findall(caption), words, source_words)


def _invented_counts(
    counted: list[str], known: set[str], digits: list[str], words: Set[str], source_words: Collection[str]
) -> list[str]:
    """The number words in ``counted`` that neither source has in any form.

    ``known``: all forms of the sources' numbers. ``digits``: the caption's runs of digits.

    The word "two" is usually left out, because it may count items that a source lists ("two smartphones"). If the
    caption drops a number word of a source, "two" counts as invented, because it probably replaces the source's number.
    """
    new = [word for word in counted if COUNTS[word] not in known]
    if not new:
        return []
    kept = {*digits, *(FORMS[word] for word in words if word in FORMS)}
    dropped = any(word in COUNTS and COUNTS[word] not in kept for word in source_words)
    return [word for word in new if dropped or int(COUNTS[word]) > 2]


def _known(text: str, runs: list[str], words: Collection[str]) -> set[str]:
    """All forms of the numbers in ``text``, as digits without separators, with and without leading zeros.

    ``runs``: the runs of digits in ``text``. ``words``: its words.
    """
    # A long run of digits may begin with a date, as in file names ("061208"). So its first pairs of digits ("06", "12",
    # "08") also count as numbers.
    runs = [*runs, *(run[i : i + 2] for run in runs if len(run) >= 6 for i in range(0, 8, 2))]
    known = {*runs, *(run.lstrip("0") or "0" for run in runs)}
    known.update(century + run for run in runs if len(run) == 2 for century in ("19", "20"))  # "'95" may be 1995
    known.update(_whole(number) for number in _NUMBER.findall(text))
    known.update(scaled(text).values())
    known.update(FORMS[word] for word in words if word in FORMS)
    known.update(FORMS[word[:-1]] for word in words if word[-1] == "s" and word[:-1] in FORMS)
    if not TENS.keys().isdisjoint(words):
        known.update(compounds(text))
    return known


def _whole(number: str) -> str:
    """``number`` without separators, leading zeros and zeros after the decimal point ("24" for "24.00")."""
    return _NO_FRACTION.sub("", number).translate(_NO_SEPARATORS).lstrip("0") or "0"


def _is_known(number: str, known: set[str], runs: list[str]) -> bool:
    """Whether a source has ``number``, or the same groups of digits in a row ("2-1" for "2:1").

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
    if ":" not in number or len(parts[0]) > 2:
        return False
    return bool({str(int(parts[0]) + 12), str(int(parts[0]) - 12)} & known)  # "6:00" for "18:00"
