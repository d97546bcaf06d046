"""Explains why a search for words finds nothing: common words are ignored, and parts of words do not match."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.warehouse.caption_tables import fused_captions
from capsfusion_tasks.warehouse.conditions import ENGLISH, SEARCHED

_WORD = re.compile(r"[^\W_]+")
_SHORTEST = 3  # shorter parts of words are not looked up, because too many words begin with the same two letters
_EXAMPLES = 50  # number of captions in which to look for words to suggest
_OFFERED = 5


@dataclass(frozen=True)
class Hint:
    """``ignored``: words that are too common to be searched. ``longer``: part of a word → words that begin with it."""

    ignored: list[str]
    longer: dict[str, list[str]]


def hint(connection: Connection, wanted: CaptionFilter) -> Hint | None:
    """What may be wrong with the words of a search that found nothing. None if nothing seems wrong."""
    if wanted.words is None:
        return None
    words = [word for word in dict.fromkeys(_WORD.findall(wanted.words.lower())) if word != "or"]
    ignored, longer = [], {}
    for word in words:
        query = func.plainto_tsquery(ENGLISH, word)
        if connection.scalar(select(func.numnode(query))) == 0:
            ignored.append(word)
        elif found := _beginning_with(connection, wanted, word):
            longer[word] = found
    return Hint(ignored, longer) if ignored or longer else None


def _beginning_with(connection: Connection, wanted: CaptionFilter, part: str) -> list[str]:
    """Words that captions contain and that begin with ``part``. Empty if a caption has ``part`` itself as a word."""
    if len(part) < _SHORTEST:
        return []
    column = fused_captions.c[SEARCHED[wanted.within]]
    document = func.to_tsvector(ENGLISH, column)
    whole = select(1).where(document.bool_op("@@")(func.plainto_tsquery(ENGLISH, part))).limit(1)
    if connection.scalar(whole) is not None:
        return []
    # The text search configuration 'simple' keeps ``part`` unchanged. 'english' might cut off its last letters.
    prefix = func.to_tsquery("simple", f"{part}:*")
    captions = connection.scalars(select(column).where(document.bool_op("@@")(prefix)).limit(_EXAMPLES))
    found = [word for caption in captions for word in _WORD.findall(caption.lower()) if word.startswith(part)]
    return sorted(set(found), key=lambda word: (-found.count(word), word))[:_OFFERED]
