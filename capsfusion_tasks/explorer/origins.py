"""Which source each word of a fused caption comes from, for the colours of the page (as in the paper's figure)."""

from __future__ import annotations

import re
from typing import Literal

from capsfusion_tasks.validation.text import words

Origin = Literal["raw", "synthetic", "both", "novel", ""]
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
