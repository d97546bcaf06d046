"""Generates training pairs of random words. Each fused caption fills a frame: a sentence with gaps for both captions.

Example of a frame: "{T} shows {s}.", with the raw caption for {T} and the synthetic caption for {s}.

The other training pairs describe scenes, which have few forms and a small vocabulary. Real captions have any form and
any words. A model that is trained only on scenes forces real captions into the forms of scenes. Pairs of random words
have no meaning. They teach the model to copy both sources, to state shared or repeated parts once, and to stop.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.demo.pairs.english import capital, plural, repaired, with_article
from capsfusion_tasks.demo.pairs.english import is_plural as english_plural
from capsfusion_tasks.demo.pairs.noise import add_noise
from training.free_words import FreeWords, without_untold

_PLACES = ("in", "on", "with", "next to", "in front of", "and", "of", "at", "on top of", "near", "under", "for", "from")
_PEOPLE = ("a man", "a woman", "two people", "a group of people", "a girl", "two men", "a person", "people", "a boy")
# _ONE comes before a singular noun, _MANY before a plural noun.
_ONE = ("a", "a", "the", "the", "an image of a", "a close up of a")
_MANY = ("two", "three", "several", "some", "a group of", "the")
# Phrases for the gap between the verb ("is" or "are") and a noun.
_DOING = (
    "", "", "shown with", "sitting on", "standing in", "on display in", "made of", "lying on", "next to", "in front of",
)  # fmt: skip
_TITLES = (
    "the cover of ", "the words ", "an image of ", "the logo for ", "the poster for ", "the title ", "a sign with the "
    "words ", "the cover for ", "a picture of ", "text that says ", "a page from ", "the front of ", "an ad for ",
)  # fmt: skip
_ARTICLES = ("a ", "an ", "the ")

# {x} is the raw caption, {t} the raw caption with an article in front, {s} the synthetic caption. {T} is {t} with a
# capital first letter, and {S} is {s} with a capital first letter. {is_} is "is" or "are".
_NOUN_FRAMES = ("{T} is {s}.", "{T} features {s}.", "{T} shows {s}.", "In {t}, there {is_} {s}.")
_NOUNS_FRAMES = ("{T} features {s}.", "{T} shows {s}.", "In {t}, there {is_} {s}.", "{T} has {s}.")  # for plural nouns
_CLAUSE_FRAMES = ("In {t}, {s}.", "{T} shows that {s}.", "{S}, representing {x}.", "{S} for {t}.")
_SHOWN = ("{T} is shown.", "The image shows {x}.")

_OPENING = re.compile(r"(?:an image (?:of|showing)|a close up of|there is|this is|a (?:picture|photo|view) of) ")
_CLAUSE = re.compile(r"(?:the|an?) ([a-z -]+?) ((?:is|are|has|have) .+)")
_HAS_VERB = re.compile(r" (?:is|are|has|have|shows?) ")


def _is_plural(noun: str) -> bool:
    """Whether a noun phrase is plural. Works only for noun phrases from `_noun`, `_PEOPLE` and scenes."""
    return noun.startswith(("two ", "three ", "several ", "some ", "people")) or (
        noun.startswith("the ") and english_plural(noun)
    )


class FreePairs:
    """Makes pairs of random words. The function `word` draws a word; `doing` draws a participle such as "holding"."""

    def __init__(self, rng: random.Random, word: Callable[[], str], doing: Callable[[], str]) -> None:
        self.rng, self.word, self.doing, self.free_words = rng, word, doing, FreeWords(rng, word)

    def pair(self) -> MadePair:
        rng = self.rng
        raw, told, others = self._raw()
        words = told.split(" ")
        self.words = words  # `_rest` sometimes copies one of these words
        if rng.random() < 0.45 and len(words) > 1:
            synthetic, frame = self._shared(words)
        elif rng.random() < 0.4:
            synthetic, frame = self._of_a_scene()
        elif rng.random() < 0.3:
            adjective, verb, rest = self._adjective(), self._verb(False), self._rest()
            noun = self.word()
            synthetic = f"the {adjective}{noun} {verb} {rest}"
            frame = f"The {adjective}{{x}}, a {noun}, {verb} {rest}." if rng.random() < 0.6 else f"{{T}} {verb} {rest}."
        elif rng.random() < 0.5:
            noun = rng.choice(_PEOPLE) if rng.random() < 0.5 else self._noun()
            synthetic = f"{noun} {self._verb(_is_plural(noun))} {self._rest()}"
            frame = rng.choice(_CLAUSE_FRAMES)
        else:
            noun = self._noun()
            synthetic = f"{noun} {rng.choice(_PLACES)} {self._rest()}" if rng.random() < 0.8 else noun
            frame = rng.choice(_NOUNS_FRAMES if _is_plural(noun) else _NOUN_FRAMES)
        fused = self._fused(frame, told, synthetic) + (f" {others}." if others else "")
        return MadePair(raw, repaired(capital(synthetic) + ("." if rng.random() < 0.8 else "")), fused, (), "free")

    def _fused(self, frame: str, told: str, synthetic: str) -> str:
        plain = synthetic.replace("an image of ", "").replace("a close up of ", "")
        the = told if told.lower().startswith(_ARTICLES) else f"the {told}"
        is_ = "are" if _is_plural(plain) else "is"
        fused = frame.format(x=told, t=the, T=capital(the), s=plain, S=capital(plain), is_=is_)
        return capital(repaired(re.sub(r"\b[Tt]he (?=(?:[Tt]he|[Aa]n?) )", "", fused)))

    def _raw(self) -> tuple[str, str, str]:
        """Returns a raw caption, the part of it that goes into a frame, and sentences to append to the fused caption.

        The part for the frame has no noise and no repeated phrase. The fused caption leaves out the later sentences and
        keywords of a long raw caption.
        """
        rng = self.rng
        count = rng.choice((rng.randint(1, 5), rng.randint(3, 9), rng.randint(5, 14), rng.randint(10, 26)))
        kind, more, others = rng.random(), "", ""
        words = self.free_words.draw(count if kind < 0.8 else rng.randint(4, 12))
        told = " ".join(words)
        if kind < 0.2 and count > 2:  # repeat a part
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

    def _verb(self, is_plural: bool) -> str:
        """A verb before an object, for example "has" or "is holding"."""
        if self.rng.random() < 0.25:
            return "have" if is_plural else "has"
        doing = self.rng.choice(_DOING) if self.rng.random() < 0.6 else self.doing()
        return f"{'are' if is_plural else 'is'} {doing}"

    def _noun(self) -> str:
        if self.rng.random() < 0.3:
            return f"{self.rng.choice(_MANY)} {self._adjective()}{plural(self.word())}"
        return f"{self.rng.choice(_ONE)} {self._adjective()}{self.word()}"

    def _rest(self) -> str:
        rng = self.rng
        said = f"{rng.choice(('a ', 'the ', 'a ', ''))}{self._adjective()}{self.word()}"
        while rng.random() < 0.5 and len(said) < 60:
            word = rng.choice(self.words).lower().strip(",") if rng.random() < 0.15 else self.word()
            said += f" {rng.choice(_PLACES)} {rng.choice(('a ', 'the ', 'a ', ''))}{word}"
        return repaired(said)

    def _of_a_scene(self) -> tuple[str, str]:
        """The synthetic caption of a scene that is unrelated to the raw caption, and a frame for both captions."""
        rng = self.rng
        while True:
            made = make_pair(rng, "train").synthetic
            said = _OPENING.sub("", made[0].lower() + made[1:].rstrip("."))
            if said.startswith((*_ARTICLES, "two ", "three ", "several ", "some ", "people ")) and "{" not in said:
                break
        clause = _CLAUSE.fullmatch(said)
        if clause and rng.random() < 0.7:
            noun, verb = clause.groups()
            frames = ["{T} " + verb + ".", f"The {{x}}, {with_article(noun)}, {verb}.", f"The {noun} of {{t}} {verb}."]
            return said, rng.choice(frames)
        if _HAS_VERB.search(said):
            return said, rng.choice(_CLAUSE_FRAMES)
        return said, rng.choice(_NOUNS_FRAMES if _is_plural(said) else _NOUN_FRAMES)

    def _shared(self, words: list[str]) -> tuple[str, str]:
        """A synthetic caption with some of the raw caption's `words`, and a frame that states these words once."""
        rng = self.rng
        start = rng.choice((0, rng.randrange(len(words))))
        said = words[start : start + rng.choice((1, 2, 3, 4, 6, 9, 30))]
        if rng.random() < 0.3:  # captioning models misspell text that they read in an image
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
            verb = self._verb(all(last.endswith("s") and not last.endswith("ss") for last in (part, words[-1])))
            return f"the {adjective}{part} {verb} {rest}", f"The {adjective}{{x}} {verb} {rest}."
        if kind < 0.75:
            noun = rng.choice((self._noun(), rng.choice(_PEOPLE)))
            place = rng.choice((*_PLACES, f"{self._verb(_is_plural(noun))} the"))
            return f"{noun} {place} {part}", f"{capital(noun)} {place} {{x}}."
        if kind < 0.9:
            return f"{rng.choice(('the ', 'a ', ''))}{adjective}{part} with {rest}", f"The {adjective}{{x}} has {rest}."
        return rng.choice(("the ", "", "")) + part, rng.choice(_SHOWN)
