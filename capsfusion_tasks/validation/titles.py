"""Recognises a title at the beginning of a caption, such as "Don't Look Up" in "Don't Look Up is a film".

The words of a title are not the caption's own statement: they neither address the reader nor speak of a narrator.
"""

from __future__ import annotations

import re

# Two or more capitalised words, perhaps with words of grammar between them: "Welcome to the Jungle".
_SMALL = r"(?:a|am|an|and|are|at|by|for|from|in|is|it|me|my|of|on|or|our|the|to|with|you|your) "
_RUN = rf"[A-Z][\w'’]*(?:[ -](?:{_SMALL}){{0,3}}[A-Z0-9][\w'’&-]*){{1,10}}[!?]?"
_YEAR = r"(?: \((?:19|20)\d\d\))?"
_RELATIVE = r"(?:which|that|who|whom|whose|where|when|while|if|because|as|so|until|and|or|but)\b"
# A title is the subject of its sentence, perhaps with a few words after it: "Don't Look Up poster on a wall is".
_PREDICATE = (
    rf"(?: (?!{_RELATIVE})[a-z][\w-]*){{0,4}} (?:is|was|are|were|has|had|features?|shows?|depicts?|stars?|displays?"
    r"|includes?|tells|follows|appears|stands|hangs|reads|says)\b"
)
_WORK = (
    r"(?:album|anime|badge|book|cartoon|comedy|comic|cover|DVD|drama|episode|film|game|logo|manga|movie|mug|musical|novel"
    r"|painting|play|poster|print|series|show|sign|single|song|soundtrack|sticker|track|t-?shirt|trailer)s?\b"
)
# The year or the kind of work may also follow a title: "Don't Breathe (2016)", "Don't Starve game cover", "Here is
# Greenwood, an anime".
_KIND = rf"(?: \((?:19|20)\d\d\)|,?(?: [a-zT\d][\w-]*){{0,3}} {_WORK})"
_SUBJECT = re.compile(f"{_RUN}{_YEAR}{_PREDICATE}")
_NAMED = re.compile(f"{_RUN}{_KIND}")


def is_subject(text: str) -> bool:
    """Whether ``text`` begins with a title that is the subject of its sentence."""
    return _SUBJECT.match(text) is not None


def is_named(text: str) -> bool:
    """Whether ``text`` begins with a title and then the year or kind of the work: "Don't Breathe (2016)"."""
    return _NAMED.match(text) is not None
