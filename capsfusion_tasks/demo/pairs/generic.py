"""Raw captions of any shape: titles, headlines, prose, lists of words, file names, with words of all domains."""

from __future__ import annotations

import random
from dataclasses import dataclass

from capsfusion_tasks.demo.pairs import lexicon, names
from capsfusion_tasks.demo.pairs.titles import title_words

_LOWER_WORDS = tuple(
    sorted(
        {
            w.lower()
            for group in (
                lexicon.TITLE_NOUNS,
                lexicon.TITLE_ADJECTIVES,
                lexicon.TITLE_VERBS,
                lexicon.ADJECTIVES,
                lexicon.HEAD_VERBS,
                lexicon.COMMON_WORDS,
            )
            for w in group
        }
        | {
            w
            for d in lexicon.DOMAINS.values()
            for g in (d.nouns, d.title, d.props, d.poses)
            for p in g
            for w in p.lower().split()
        }
    )
)


@dataclass(frozen=True)
class GenericRaw:
    """A raw caption before noise, the part that the fused caption keeps, its entities, and whether it is prose."""

    raw: str
    kept: str
    entities: tuple[str, ...]
    sentence: bool = False


def _mixed_title(rng: random.Random, split: str) -> GenericRaw:
    count = (rng.randint(1, 4), rng.randint(3, 7), rng.randint(5, 10), rng.randint(8, 16))[rng.randrange(4)]
    parts: list[str] = []
    entities: list[str] = []
    style = rng.random()
    for place in range(count):
        kind = rng.random()
        if kind < 0.22:
            name = names.word(rng, split)
            entities.append(name)
        elif kind < 0.28:
            name = names.code(rng, split) if rng.random() < 0.7 else names.acronym(rng, split)
            entities.append(name)
        elif kind < 0.34:
            name = names.number(rng) if rng.random() < 0.5 else names.year(rng)
            entities.append(name)
        elif kind < 0.38:
            name = names.person(rng, split)
            entities.append(name)
        elif kind < 0.41:
            name = names.place(rng, split)
            entities.append(name)
        elif kind < 0.52 and place not in (0, count - 1):
            name = rng.choice(lexicon.SMALL_WORDS)
            name = name if rng.random() < 0.7 else name.title()
        else:
            name = rng.choice(_LOWER_WORDS)
            name = names.capital(name) if style < 0.75 else name
        if place < count - 1:
            glue = rng.random()
            if glue > 0.985:
                name += rng.choice((" &", " /", " +", " –", " @", " x"))
            elif glue > 0.94:
                name += rng.choice((",", ",", ":", " -", ";", "!", "."))
        parts.append(name)
    text = " ".join(parts)
    if rng.random() < 0.06:
        text = text.replace(parts[-1], f'"{parts[-1]}"') if '"' not in text else text
    elif rng.random() < 0.06:
        text = text.replace(parts[-1], f"({parts[-1]})")
    return GenericRaw(text, text, tuple(entities))


def _work(rng: random.Random, split: str) -> GenericRaw:
    first = title_words(rng, split, 2, 6)
    text = rng.choice(
        (
            "{a} - {b}",
            "{a}: {b}",
            "{a} by {c}",
            "{a}, {c}",
            "{n} {a} {b}",
            "{a}",
            "{n} Best {a} Ideas",
            "{a} ({y})",
            "{y} {a}",
        )
    ).format(
        a=first, b=title_words(rng, split, 1, 4), c=names.person(rng, split), n=names.number(rng), y=names.year(rng)
    )
    return GenericRaw(text, text, (first,))


def _headline(rng: random.Random, split: str) -> GenericRaw:
    who = (names.person, names.brand, names.town)[rng.randrange(3)](rng, split)
    verb = rng.choice(lexicon.HEAD_VERBS)
    what = title_words(rng, split, 1, 4)
    where = names.place(rng, split)
    tail = rng.choice(
        (
            "",
            f" in {where}",
            f" for {names.brand(rng, split)}",
            f" at {names.town(rng, split)} {rng.choice(lexicon.TITLE_NOUNS)}",
            f" on {names.date(rng)}",
            f" after {rng.choice(_LOWER_WORDS)} {rng.choice(_LOWER_WORDS)}",
        )
    )
    text = f"{who} {verb} {rng.choice(('', '', 'new ', 'the ', 'its '))}{what}{tail}"
    return GenericRaw(text, text, (who, what), sentence=True)


def _prose(rng: random.Random, split: str) -> GenericRaw:
    def clause() -> tuple[str, tuple[str, ...]]:
        who = (names.person, names.town, names.brand)[rng.randrange(3)](rng, split)
        words = [
            rng.choice(_LOWER_WORDS) if rng.random() < 0.55 else rng.choice(lexicon.SMALL_WORDS)
            for _ in range(rng.randint(2, 9))
        ]
        where = names.place(rng, split)
        kind = rng.randrange(5)
        joined = " ".join(words)
        if kind == 0:
            return f"{who} {rng.choice(lexicon.HEAD_VERBS)} {joined} in {where}", (who, where)
        if kind == 1:
            return f"The {rng.choice(_LOWER_WORDS)} {rng.choice(_LOWER_WORDS)} of {who} {joined} near {where}", (
                who,
                where,
            )
        if kind == 2:
            when = names.date(rng)
            return f"{who} is {rng.choice(lexicon.TITLE_VERBS).lower()} the {joined} on {when}", (who, when)
        if kind == 3:
            return f"View of the {joined} at {who} in {where}", (who, where)
        return f"This {joined} was made by {who} from {where}", (who, where)

    kept, entities = clause()
    raw = kept
    if rng.random() < 0.5:
        raw += ". " + clause()[0]
        while rng.random() < 0.6:
            raw += ". " + clause()[0]
        raw += rng.choice((".", "", "..."))
    elif rng.random() < 0.4:
        raw += "."
    return GenericRaw(raw, kept, entities, sentence=True)


def _plain_words(rng: random.Random, split: str) -> GenericRaw:
    words = [
        rng.choice(_LOWER_WORDS) if rng.random() < 0.75 else rng.choice(lexicon.SMALL_WORDS)
        for _ in range(rng.randint(2, 14))
    ]
    entities: tuple[str, ...] = ()
    if rng.random() < 0.6:
        name = names.lower_word(rng, split)
        words.insert(rng.randrange(len(words) + 1), name)
        entities = (name,)
    text = " ".join(words)
    return GenericRaw(text, text, entities)


def _file_name(rng: random.Random, split: str) -> GenericRaw:
    words = [
        rng.choice(_LOWER_WORDS) if rng.random() < 0.6 else names.lower_word(rng, split)
        for _ in range(rng.randint(2, 6))
    ]
    style = str.title if rng.random() < 0.3 else str
    words = [style(word) for word in words if word.isalpha()] or ["image"]
    glue = rng.choice("-_-")
    return GenericRaw(glue.join(words) + rng.choice(("", "", ".jpg", "-1", "_02")), " ".join(words), ())


_SHAPES = (
    (_mixed_title, 0.44),
    (_work, 0.57),
    (_headline, 0.67),
    (_prose, 0.87),
    (_plain_words, 0.97),
    (_file_name, 1.0),
)


def make_generic(rng: random.Random, split: str) -> GenericRaw:
    """A raw caption of one of the shapes."""
    kind = rng.random()
    for make, bound in _SHAPES:
        if kind < bound:
            return make(rng, split)
    raise AssertionError("the last bound is 1.0")
