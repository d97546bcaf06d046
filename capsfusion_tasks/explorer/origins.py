"""Splits captions into pieces that the page colours.

A colour shows from which caption a word comes, what a rule found, or how two captions differ.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

from capsfusion_tasks.validation.text import words

Origin = Literal["raw", "synthetic", "both", "novel", ""]
Piece = tuple[str, Origin, bool]  # text, origin, and whether a rule found the piece
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w]+|_+")


def origins(caption: str, raw: str, synthetic: str) -> list[tuple[str, Origin]]:
    """Split ``caption`` into pieces, each with its origin. The joined pieces are exactly the caption.

    Words are compared in the same way as for validation's scores, so a ``novel`` word here also counts in the score
    ``novelty``. ``both``: a word of the raw and of the synthetic caption. "": characters between words.
    """
    in_raw, in_synthetic = set(words(raw)), set(words(synthetic))
    pieces: list[tuple[str, Origin]] = []
    for piece in _TOKEN.findall(caption):
        found = words(piece)
        origin = _origin(found, in_raw, in_synthetic)
        if pieces and pieces[-1][1] == origin == "":
            pieces[-1] = (pieces[-1][0] + piece, origin)
        else:
            pieces.append((piece, origin))
    return pieces


def _origin(found: list[str], in_raw: set[str], in_synthetic: set[str]) -> Origin:
    if not found:
        return ""
    raw, synthetic = in_raw.issuperset(found), in_synthetic.issuperset(found)
    return "both" if raw and synthetic else "raw" if raw else "synthetic" if synthetic else "novel"


def marked(pieces: list[tuple[str, Origin]], spans: list[tuple[int, int]]) -> list[Piece]:
    """Cut ``pieces`` at the ends of ``spans`` (ranges of characters), and mark the pieces inside a span."""
    cuts = {end for span in spans for end in span}
    found: list[Piece] = []
    start = 0
    for text, origin in pieces:
        ends = sorted({start + len(text), *(cut for cut in cuts if start < cut < start + len(text))})
        at = start
        for end in ends:
            inside = any(first <= at < last for first, last in spans)
            found.append((text[at - start : end - start], origin, inside))
            at = end
        start += len(text)
    return found


def differences(text: str, other: str) -> list[tuple[str, bool]]:
    """Split ``text`` into pieces. True marks a piece that differs from ``other``. The joined pieces are ``text``."""
    ours, theirs = (_TOKEN.findall(each) for each in (text, other))
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    return [
        ("".join(ours[start:end]), kind != "equal") for kind, _, _, start, end in matcher.get_opcodes() if end > start
    ]
