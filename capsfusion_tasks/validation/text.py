"""Words and n-grams as scores and rules see them: case, width, quotes and punctuation do not count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of ``text`` in order, NFKC-normalised and case-folded; "Don’t" is one word, the same as "don't"."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold().replace("’", "'"))


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def repeated_share(tokens: Sequence[str], n: int = 3) -> float:
    """Share of n-grams that stood before in the same text: 0 where all differ, 0 for a text shorter than ``n``."""
    grams = ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def contains(tokens: Sequence[str], part: Sequence[str]) -> bool:
    """Whether ``part`` stands in ``tokens`` as consecutive words."""
    return f" {' '.join(part)} " in f" {' '.join(tokens)} "
