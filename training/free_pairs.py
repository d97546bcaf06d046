"""Training pairs of any words: raw captions of any shape, and simple frames that copy both sources.

Made scenes have few shapes and a small vocabulary. Real captions have any shape and any words, and a model that has
seen only scenes forces real captions into them. These pairs mean nothing. They teach to copy both sources, to say once
what the sources share or repeat, and to end when all is said.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from capsfusion_tasks.demo.pairs import MadePair
from capsfusion_tasks.demo.pairs.english import capital, repaired
from capsfusion_tasks.demo.pairs.noise import add_noise
from training.free_words import FreeWords, without_untold

_PLACES = ("in", "on", "with", "next to", "in front of", "and", "of", "at", "on top of", "near", "under", "for", "from")
_PEOPLE = ("a man", "a woman", "two people", "a group of people", "a girl", "two men", "a person", "people", "a boy")
_SUBJECTS = ("a", "a", "the", "the", "an image of a", "two", "several", "a close up of a", "some", "a group of")
_VERBS = ("is", "are", "has", "is shown with", "is sitting", "are standing", "is on display", "is made of")
_TITLES = (
    "the cover of ", "the words ", "an image of ", "the logo for ", "the poster for ", "the title ", "a sign with the "
    "words ", "the cover for ", "a picture of ", "text that says ", "a page from ", "the front of ", "an ad for ",
)  # fmt: skip
_ARTICLES = ("a ", "an ", "the ")

# {x} is the raw caption, {T} the same with "The", {s} the synthetic caption, {S} the same with a capital.
_NOUN_FRAMES = ("{T} is {s}.", "{T} features {s}.", "{T} shows {s}.", "In {t}, there is {s}.")
_CLAUSE_FRAMES = ("In {t}, {s}.", "{T} shows that {s}.", "{S}, representing {x}.", "{S} for {t}.")
_SHOWN = ("{T} is shown.", "The image shows {x}.")


class FreePairs:
    """Makes pairs of words that `word` draws."""

    def __init__(self, rng: random.Random, word: Callable[[], str]) -> None:
        self.rng, self.word, self.free_words = rng, word, FreeWords(rng, word)

    def pair(self) -> MadePair:
        rng = self.rng
        raw, told, others = self._raw()
        words = told.split(" ")
        self.words = words  # from which `_rest` takes one at times
        if rng.random() < 0.5 and len(words) > 1:
            synthetic, frame = self._shared(words)
        elif rng.random() < 0.3:
            adjective, verb, rest = self._adjective(), self._verb(), self._rest()
            noun = self.word()
            synthetic = f"the {adjective}{noun} {verb} {rest}"
            frame = f"The {adjective}{{x}}, a {noun}, {verb} {rest}." if rng.random() < 0.6 else f"{{T}} {verb} {rest}."
        elif rng.random() < 0.5:
            noun = rng.choice(_PEOPLE) if rng.random() < 0.5 else self._noun()
            synthetic, frame = f"{noun} {self._verb()} {self._rest()}", rng.choice(_CLAUSE_FRAMES)
        else:
            synthetic = f"{self._noun()} {rng.choice(_PLACES)} {self._rest()}" if rng.random() < 0.8 else self._noun()
            frame = rng.choice(_NOUN_FRAMES)
        fused = self._fused(frame, told, synthetic) + (f" {others}." if others else "")
        return MadePair(raw, repaired(capital(synthetic) + ("." if rng.random() < 0.8 else "")), fused, (), "free")

    def _fused(self, frame: str, told: str, synthetic: str) -> str:
        plain = synthetic.replace("an image of ", "").replace("a close up of ", "")
        the = told if told.lower().startswith(_ARTICLES) else f"the {told}"
        fused = frame.format(x=told, t=the, T=capital(the), s=plain, S=capital(plain))
        return capital(repaired(re.sub(r"\b[Tt]he (?=(?:[Tt]he|[Aa]n?) )", "", fused)))

    def _raw(self) -> tuple[str, str, str]:
        """A raw caption of 1 to 45 words, what a fused caption says of it, and its later sentences.

        The fused caption has no noise, says each phrase once, and leaves out what would make it too long.
        """
        rng = self.rng
        count = rng.choice((rng.randint(1, 5), rng.randint(3, 9), rng.randint(5, 14), rng.randint(10, 26)))
        kind, more, others = rng.random(), "", ""
        words = self.free_words.draw(count if kind < 0.8 else rng.randint(4, 12))
        told = " ".join(words)
        if kind < 0.2 and count > 2:  # it repeats a part of itself
            start = rng.choice((0, rng.randrange(len(words))))
            again = words[start : start + rng.randint(2, 10)]
            more = rng.choice((". ", " - ", " ", ", ", " | ", ": ")) + " ".join(again)
            if rng.random() < 0.3:
                more += rng.choice((" ", ", ", ". ")) + " ".join(again)
            if rng.random() < 0.4:
                new = " ".join(self.free_words.draw(rng.randint(1, 6)))
                more, told = f"{more} {new}", f"{told} {new}"
        elif kind >= 0.8:  # several sentences or keywords
            mark = rng.choice((". ", ". ", " | ", ", "))
            parts = [" ".join(self.free_words.draw(rng.randint(3, 14))) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
            more = mark + mark.join(parts)
            said = [part for number, part in enumerate(parts) if sum(map(len, parts[: number + 1])) < 170 - len(told)]
            if mark == ", ":
                told = mark.join([told, *said])
            else:
                others = without_untold(". ".join(said))
        raw = " ".join(words) + more
        if rng.random() < 0.3:
            raw = raw.replace('"', "&quot;").replace(" & ", " &amp; ")
        if rng.random() < 0.08:
            raw += rng.choice(("...", " ...", "…", "!", ".", "?"))
        if rng.random() < 0.25:
            raw = add_noise(rng, raw, "train", rng.choice(("shop", "web")))
        return repaired(raw), without_untold(told) or capital(self.word()), others

    def _adjective(self) -> str:
        return f"{self.word()} " if self.rng.random() < 0.5 else ""

    def _verb(self) -> str:
        return self.rng.choice(_VERBS) if self.rng.random() < 0.6 else f"is {self.word()}ing"

    def _noun(self) -> str:
        return f"{self.rng.choice(_SUBJECTS)} {self._adjective()}{self.word()}"

    def _rest(self) -> str:
        rng = self.rng
        said = f"{rng.choice(('a ', 'the ', '', ''))}{self.word()}"
        while rng.random() < 0.55 and len(said) < 60:
            place = rng.choice(_PLACES) if rng.random() < 0.6 else ""
            word = rng.choice(self.words).lower().strip(",") if rng.random() < 0.12 else self.word()
            said += f" {place} {rng.choice(('a ', 'the ', '', ''))}{word}"
        return repaired(said)

    def _shared(self, words: list[str]) -> tuple[str, str]:
        """A synthetic caption that says a part of the raw one's `words`, and the frame that says both once."""
        rng = self.rng
        start = rng.choice((0, rng.randrange(len(words))))
        said = words[start : start + rng.choice((1, 2, 3, 4, 6, 9, 30))]
        if rng.random() < 0.3:  # a model that reads an image misspells it
            wrong = rng.randrange(len(said))
            said[wrong] = said[wrong][: rng.randint(1, 5)] + rng.choice(("", self.word()[:4]))
        if rng.random() < 0.15:
            rng.shuffle(said)
        part = " ".join(said).rstrip(",:.")
        part = part.lower() if rng.random() < 0.65 else part
        kind, rest, adjective = rng.random(), self._rest(), self._adjective()
        if kind < 0.3:
            opening = rng.choice(_TITLES)
            more = "" if rng.random() < 0.5 else f" {rng.choice(('with', 'on', 'and'))} {rest}"
            return f"{opening}{part}{more}", f"{capital(opening)}{{x}}{more}."
        if kind < 0.6:
            verb = self._verb()
            return f"the {adjective}{part} {verb} {rest}", f"The {adjective}{{x}} {verb} {rest}."
        if kind < 0.75:
            noun, place = rng.choice((self._noun(), rng.choice(_PEOPLE))), rng.choice((*_PLACES, f"{self._verb()} the"))
            return f"{noun} {place} {part}", f"{capital(noun)} {place} {{x}}."
        if kind < 0.9:
            return f"{rng.choice(('the ', 'a ', ''))}{adjective}{part} with {rest}", f"The {adjective}{{x}} has {rest}."
        return rng.choice(("the ", "", "")) + part, rng.choice(_SHOWN)
