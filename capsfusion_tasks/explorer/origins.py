"""Which source each word of a fused caption comes from: the colours of the paper's figure."""

from __future__ import annotations

import re
from typing import Literal

from capsfusion_tasks.validation.text import words

Origin = Literal["raw", "synthetic", "both", "novel", ""]
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w]+|_+")


def origins(caption: str, raw: str, synthetic: str) -> list[tuple[str, Origin]]:
    """``caption`` in pieces, each with its origin; the pieces together are the caption, character for character.

    Words are compared as the scores compare them, so what is novel here counts as novelty there. ``both``: a word that
    both sources have; empty: what is between words.
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
