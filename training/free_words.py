"""Draws random words in the style of raw captions, with codes, quotations, accents, other scripts and emoji."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable

from capsfusion_tasks.demo.pairs.english import capital, repaired
from capsfusion_tasks.demo.pairs.names import GENERATORS, person

_SMALL = (
    "of", "for", "with", "in", "and", "the", "to", "a", "at", "from", "on", "by", "of the", "in the", "is", "&", "-",
)  # fmt: skip
_NAMES = ("made", "brand", "family", "town", "code", "year", "number", "few", "phrase", "size", "date")

# A fused caption leaves out emoji and scripts other than Latin, such as Cyrillic. It copies accented letters and signs.
_FOREIGN = [(0x410, 0x44F), (0x3B1, 0x3C9), (0x4E00, 0x9FA0), (0x3041, 0x3096), (0xAC00, 0xD7A0), (0x627, 0x64A)]
_EMOJI = [(0x1F300, 0x1F64F), (0x1F680, 0x1F6C0), (0x2600, 0x26FF)]
_UNTOLD = re.compile("[\u0370-\u1fff\u2600-\u27bf\u3000-\uffff\U00010000-\U0001ffff]|<")
_ACCENTS = "éèêëáàâäãåçíìîïñóòôöõøúùûüýßæœšžčćđłğışőűățÉÖÜÅÁÇØŠŽ"
_UNITS = ("MP", "cm", "mm", "kg", "ml", "K", "Ft", "W", "V", "GB", "x", "pcs", "Pack", '"', "%")
_SIGNS = ("!", "?", "%", "*", ";", "+", "=", "~", ">", "…", "™", "®", "°", "½", "¼", "’", "”", "&", "$", "€", "£", "/")


def without_untold(text: str) -> str:
    """`text` without words that have an HTML tag, an emoji or a non-Latin letter. Fused captions omit such words."""
    return repaired(" ".join(word for word in text.split(" ") if not _UNTOLD.search(word))).rstrip(".,:! ")


class FreeWords:
    """Draws the words of a raw caption. `word` is a function that draws a plain word."""

    def __init__(self, rng: random.Random, word: Callable[[], str]) -> None:
        self.rng, self.word = rng, word

    def draw(self, count: int) -> list[str]:
        """About `count` words in the style of a title, a list, a headline or a sentence. Some words may repeat."""
        rng = self.rng
        capitals, names, repeats = rng.choice((0.0, 0.9, 0.9, 0.5)), rng.choice((0.05, 0.2, 0.4)), rng.random() < 0.25
        small, comma = rng.choice((0.0, 0.15, 0.35)), rng.choice((0.0, 0.0, 0.05, 0.3))
        odd = rng.choice((0.0, 0.0, 0.05, 0.2))
        # A unit of measurement, such as "cm", that several numbers of the caption share.
        unit = rng.choice((*_UNITS, self.word()[:2].upper())) if rng.random() < 0.12 else ""
        words: list[str] = [rng.choice(("A", "The", "a", "The"))] if rng.random() < 0.1 else []
        while len(words) < count:
            kind = rng.random()
            if words and kind < small and words[-1] not in _SMALL:
                words += rng.choice(_SMALL).split(" ")
            elif repeats and len(words) > 2 and kind < small + 0.2:
                words.append(rng.choice(words))
            elif rng.random() < odd:
                words.append(self._odd())
            elif unit and kind > 0.65:
                words.append(f"{rng.randint(1, rng.choice((9, 200)))}{unit}")
            elif kind > 1.0 - names:
                root = rng.choice(_NAMES)
                words += (person(rng, "train") if rng.random() < 0.25 else GENERATORS[root](rng, "train")).split(" ")
            else:
                word = self.word()
                words.append(capital(word) if rng.random() < capitals else word)
            if rng.random() < comma and words[-1][-1].isalnum():
                words[-1] += ","
        while len(words) > 1 and words[-1].lower() in _SMALL:
            words.pop()
        words[-1] = words[-1].rstrip(",:")
        if rng.random() < 0.1:  # a quotation
            first = rng.randrange(len(words))
            last = min(len(words) - 1, first + rng.randint(0, 5))
            words[first], words[last] = '"' + words[first], words[last] + '"'
        return [word.upper() for word in words] if rng.random() < 0.1 else words

    def _odd(self) -> str:
        """An unusual word: for example a code, a number with a sign, an accented word, a tag or an emoji."""
        rng, kind, word = self.rng, self.rng.random(), self.word()
        place = rng.randint(0, len(word))
        if kind < 0.2:
            return "".join(rng.choices(string.digits + rng.choice(string.digits) * 4, k=rng.randint(2, 8)))
        if kind < 0.4:
            letters = rng.choice((string.ascii_uppercase, string.ascii_letters, "abcdef")) + string.digits + "-/."
            return "".join(rng.choices(letters, k=rng.randint(3, 12))).strip("-/.") or word
        if kind < 0.55:
            sign = rng.choice(_SIGNS)
            number = str(rng.randint(1, 999))
            return rng.choice((word + sign, number + sign, sign + number, word[:place] + sign + word[place:]))
        if kind < 0.65:
            return rng.choice("-_/").join(capital(self.word()) for _ in range(rng.randint(2, 4)))
        if kind < 0.75:
            return capital(word[:place] + rng.choice(_ACCENTS) + word[place:])
        if kind < 0.8:
            return rng.choice(("<br/>", "<b>", "<br>", "</p>"))
        low, high = rng.choice(_FOREIGN if kind < 0.92 else _EMOJI)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6 if kind < 0.92 else 2)))
