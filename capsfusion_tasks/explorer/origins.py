"""Captions in pieces, for the colours of the page: by source (as in the paper's figure), by rule, by difference."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal

from capsfusion_tasks.validation.text import words

Origin = Literal["raw", "synthetic", "both", "novel", ""]
Piece = tuple[str, Origin, bool]  # a piece: its text, its origin, and whether a rule is about it
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w]+|_+")


def origins(caption: str, raw: str, synthetic: str) -> list[tuple[str, Origin]]:
    """``caption`` in pieces, each with its origin. Joined, the pieces give the caption, character for character.

    Words are compared as in the scores, so a ``novel`` word here also counts in the score novelty. ``both``: a word of
    both sources. "": characters between words.
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
    """``pieces``, cut where a span begins or ends. Marks those inside a span. ``spans``: ranges of characters."""
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
    """``text`` in pieces, each with True if it differs from ``other``. Joined, the pieces give the text."""
    ours, theirs = (_TOKEN.findall(each) for each in (text, other))
    matcher = SequenceMatcher(None, theirs, ours, autojunk=False)
    return [
        ("".join(ours[start:end]), kind != "equal") for kind, _, _, start, end in matcher.get_opcodes() if end > start
    ]
