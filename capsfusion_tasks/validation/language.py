"""Scripts and languages of short texts, as far as letters and words of grammar tell them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from capsfusion_tasks.validation.text import FUNCTION_WORDS

# Blocks of letters: Greek, Cyrillic, Armenian, Hebrew, Arabic, those of India, Thai, Georgian, Hangul, and what Chinese
# and Japanese share.
_SCRIPTS = (
    "\u0370-\u03ff\u1f00-\u1fff",
    "\u0400-\u052f",
    "\u0530-\u058f",
    "\u0590-\u05ff",
    "\u0600-\u06ff\u0750-\u077f",
    "\u0900-\u0dff",
    "\u0e00-\u0e7f",
    "\u10a0-\u10ff",
    "\u1100-\u11ff\uac00-\ud7af",
    "\u3040-\u30ff\u3400-\u9fff",
)
_RUNS = re.compile("|".join(f"[{blocks}]{{2,}}" for blocks in _SCRIPTS))

_GERMAN = "der das und ist nicht ein eine einer einem einen mit auf für von dem den im auch sich wird sind zu"
_FRENCH = "le la les des une est dans avec pour sur et du au aux cette ce qui sont par ou"
_SPANISH = "el los las una con para por del y es en lo su un se como más"
_ITALIAN = "il gli di che della nella per con è e sono dei delle al"
_PORTUGUESE = "o os uma com para em não do da dos das é no na ao"
_DUTCH = "het een van met op en voor bij zijn niet aan naar"
_FOREIGN = frozenset(f"{_GERMAN} {_FRENCH} {_SPANISH} {_ITALIAN} {_PORTUGUESE} {_DUTCH}".split()) - FUNCTION_WORDS


def words_not_latin(text: str) -> list[str]:
    """The runs of two letters or more of one script other than Latin; one letter is mostly a sign ("5 µm")."""
    return [] if text.isascii() else _RUNS.findall(text)


def is_foreign(words: Sequence[str], names: Collection[str]) -> bool:
    """Whether the grammar of ``words`` is that of another language than English, leaving out ``names``.

    Three or more of its words of grammar, and more than one for each two English ones.
    """
    if _FOREIGN.isdisjoint(words):
        return False
    foreign = sum(word in _FOREIGN and word not in names for word in words)
    return foreign >= 3 and 2 * foreign > sum(word in FUNCTION_WORDS for word in words)
