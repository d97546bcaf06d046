"""Training pairs of random words: raw captions of any shape, and fused captions that copy both sources.

Made-up scenes have few shapes and a small vocabulary. A model that was trained only on scenes distorts real captions,
which have any shape and words. These pairs have no meaning; they teach the model to copy each word of both sources
once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from capsfusion_tasks.demo.pairs import MadePair
from capsfusion_tasks.demo.pairs.english import capital, repaired
from capsfusion_tasks.demo.pairs.names import GENERATORS, person

_SMALL = (
    "of",
    "for",
    "with",
    "in",
    "and",
    "the",
    "to",
    "a",
    "at",
    "from",
    "on",
    "by",
    "of the",
    "in the",
    "is",
    "&",
    "-",
)
_PLACES = ("in", "on", "with", "next to", "in front of", "and", "of", "at", "on top of", "near", "under", "for", "from")
_NAMES = ("made", "brand", "family", "town", "code", "year", "number", "few", "phrase", "size", "date")
_SUBJECTS = ("a", "a", "the", "the", "an image of a", "two", "several", "a close up of a", "some", "a group of")

# {x} is the raw caption, {s} the synthetic one, {S} with a capital.
_NOUN_FRAMES = (
    "The {x} is {s}.", "The {x} features {s}.", "The {x} has {s}.", "The {x} comes with {s}.", "{x}, with {s}.",
    "In the {x}, there is {s}.", "{S} is part of the {x}.", "{S} goes with the {x}.", "The {x} includes {s}.",
    "{S} for the {x}.", "With {s}, the {x} is complete.", "The {x} presents {s}.", "The {x} shows {s}.",
    "{S} represents the {x}.",
)  # fmt: skip
_CLAUSE_FRAMES = (
    "{x}, where {s}.", "At the {x}, {s}.", "{S} at the {x}.", "In the {x}, {s}.", "{x}, as {s}.", "{x}, while {s}.",
    "During the {x}, {s}.", "{S} for the {x}.", "The {x} is the place where {s}.", "{S} in the {x}.", "{x}. {S}.",
    "For the {x}, {s}.",
)  # fmt: skip
# The synthetic caption has the raw one's words; {r} is what it adds.
_SHARED_FRAMES = ("The {x} is {r}.", "The {x} has {r}.", "{x} with {r}.", "The {x} features {r}.", "{x}, {r}.")


class FreePairs:
    """Makes pairs of words that `word` draws."""

    def __init__(self, rng: random.Random, word: Callable[[], str]) -> None:
        self.rng, self.word = rng, word

    def pair(self) -> MadePair:
        rng = self.rng
        words = self._raw_words()
        raw = " ".join(words)
        if rng.random() < 0.35 and len(words) > 2:
            synthetic, fused = self._shared(words)
        elif rng.random() < 0.45:
            noun, verb = self._noun(), rng.choice(("is", "are", "has", "is shown with", "is sitting", "are standing"))
            said = f"{noun} {verb if rng.random() < 0.6 else f'is {self.word()}ing'} {self._rest()}"
            synthetic, fused = said, rng.choice(_CLAUSE_FRAMES).format(x=raw, s=said, S=capital(said))
        else:
            said = f"{self._noun()} {rng.choice(_PLACES)} {self._rest()}" if rng.random() < 0.8 else self._noun()
            plain = said.replace("an image of ", "").replace("a close up of ", "")
            synthetic, fused = said, rng.choice(_NOUN_FRAMES).format(x=raw, s=plain, S=capital(plain))
        synthetic = repaired(capital(synthetic) + ("." if rng.random() < 0.8 else ""))
        fused = capital(
            repaired(fused.replace("The the ", "The ").replace("The The ", "The ").replace("the the ", "the "))
        )
        return MadePair(repaired(raw), synthetic, fused, (), "free")

    def _raw_words(self) -> list[str]:
        """A title, a list, a headline or a sentence of 1 to 36 words, sometimes with repeated words."""
        rng = self.rng
        count = rng.choice((rng.randint(1, 5), rng.randint(3, 9), rng.randint(5, 14), rng.randint(10, 26)))
        capitals, names, repeats = rng.choice((0.0, 0.9, 0.9, 0.5)), rng.choice((0.05, 0.2, 0.4)), rng.random() < 0.3
        small, comma = rng.choice((0.0, 0.15, 0.35)), rng.choice((0.0, 0.0, 0.05, 0.3))
        words: list[str] = []
        while len(words) < count:
            kind = rng.random()
            if words and kind < small and words[-1] not in _SMALL:
                words += rng.choice(_SMALL).split(" ")
            elif repeats and len(words) > 2 and kind < small + 0.2:
                start = rng.randrange(len(words))
                words += words[start : start + rng.choice((1, 1, 2, 3))]
            elif kind > 1.0 - names:
                root = rng.choice(_NAMES)
                words += (person(rng, "train") if rng.random() < 0.25 else GENERATORS[root](rng, "train")).split(" ")
            else:
                word = self.word()
                words.append(capital(word) if rng.random() < capitals else word)
            if rng.random() < comma and words[-1][-1].isalnum():
                words[-1] += ","
        while len(words) > 1 and words[-1] in _SMALL:
            words.pop()
        words[-1] = words[-1].rstrip(",:")
        return words

    def _noun(self) -> str:
        described = f"{self.word()} {self.word()}" if self.rng.random() < 0.5 else self.word()
        return f"{self.rng.choice(_SUBJECTS)} {described}"

    def _rest(self) -> str:
        rng = self.rng
        said = f"{rng.choice(('a ', 'the ', '', ''))}{self.word()}"
        while rng.random() < 0.55 and len(said) < 60:
            article = rng.choice(("a ", "the ", "", ""))
            said += f" {rng.choice(_PLACES) if rng.random() < 0.6 else ''} {article}{self.word()}"
        return repaired(said)

    def _shared(self, words: list[str]) -> tuple[str, str]:
        rng = self.rng
        start = rng.randrange(max(1, len(words) - 3))
        part = " ".join(words[start : start + rng.randint(2, 7)]).rstrip(",:")
        rest = self._rest()
        opening = rng.choice(
            ("the ", "the cover of ", "the words ", "", "an image of ", "the logo for ", "the poster for ")
        )
        part_there = part.lower() if rng.random() < 0.6 else part
        synthetic = f"{opening}{part_there} {rng.choice(('with', 'is', 'on', 'has', 'and'))} {rest}"
        return synthetic, rng.choice(_SHARED_FRAMES).format(x=" ".join(words), r=rest)
