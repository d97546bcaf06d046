"""Makes up names that sound real: persons, places, brands, codes, dates and sizes.

The CRC-32 of a made-up word or model number decides to which split (train, heldout or sample) it belongs, so that
training never sees a name of the held-out pairs. Python's `hash` is not used, because it changes with each process.
"""

from __future__ import annotations

import datetime
import random
import string
import zlib
from collections.abc import Callable

from capsfusion_tasks.demo.pairs.english import capital
from capsfusion_tasks.demo.pairs.words import CULTURES, VOCABULARY, words_of

SPLITS = ("train", "heldout", "sample")


def split_of(word: str) -> str:
    """The split to which a made-up word or model number belongs. Case-insensitive."""
    bucket = zlib.crc32(word.lower().encode("utf-8")) % 20
    return "heldout" if bucket == 0 else "sample" if bucket == 1 else "train"


def _in_split(make: Callable[[random.Random], str], rng: random.Random, split: str) -> str:
    while True:
        word = make(rng)
        if split_of(word) == split:
            return word


def _stem(rng: random.Random, culture: dict[str, list[str]]) -> str:
    stem = rng.choice(culture["onset"]) + rng.choice(culture["vowel"]) + rng.choice(culture["coda"])
    if rng.random() < 0.25:
        stem += rng.choice(culture["vowel"]) + rng.choice(culture["coda"])
    return stem.replace("-", "")


def _name(rng: random.Random, split: str, ending: str, culture: dict[str, list[str]] | None = None) -> str:
    """A name such as `Brenlow`: a stem and an ending (for a `family` or a `town`) from the syllables of a culture."""
    culture = culture or rng.choice(CULTURES)
    return capital(_in_split(lambda r: _stem(r, culture) + r.choice(culture[ending]), rng, split))


def _trade(rng: random.Random) -> str:
    """A trade name: joined words or parts of words, a word with a changed letter, or syllables and an ending (`ix`)."""
    kind = rng.random()
    one, other = rng.choice(VOCABULARY), rng.choice(VOCABULARY)
    if kind < 0.3:
        return capital(one) + (capital(other) if rng.random() < 0.5 else other)
    if kind < 0.5:
        return capital(one[: rng.randint(2, 5)]) + other[-rng.randint(2, 5) :]
    if kind < 0.6:
        place = rng.randrange(1, len(one))
        return capital(one[:place] + rng.choice("abcdefghijklmnoprstuvwxyz") + one[place + rng.randint(0, 1) :])
    return capital(_stem(rng, rng.choice(CULTURES)) + rng.choice(words_of("trade_ending")))


def made(rng: random.Random, split: str) -> str:
    """A capitalised made-up word of any shape."""
    return _in_split(_trade, rng, split)


def lower_word(rng: random.Random, split: str) -> str:
    """A made-up word in lowercase."""
    return made(rng, split).lower()


def brand(rng: random.Random, split: str) -> str:
    """A trade name such as `Velmora`, `OakNest`, `Tarn & Hollis` or `KRV`."""
    kind = rng.random()
    if kind < 0.5:
        return made(rng, split)
    if kind < 0.65:
        return family(rng, split)
    if kind < 0.72:
        return _in_split(lambda r: "".join(r.choices(string.ascii_uppercase, k=r.choice((2, 3, 3, 4)))), rng, split)
    if kind < 0.79:
        return made(rng, split).upper()
    if kind < 0.86:
        return f"{family(rng, split)} {rng.choice(('&', 'and', '+'))} {family(rng, split)}"
    if kind < 0.93:
        return f"{made(rng, split)} {capital(rng.choice(VOCABULARY))}"
    return f"{family(rng, split)}{rng.choice(words_of('brand_ending'))}"


def family(rng: random.Random, split: str) -> str:
    return _name(rng, split, "family")


def person(rng: random.Random, split: str, sex: str = "m") -> str:
    """A person's name such as `Anna K. Brenlow`. Given name and family name usually come from the same culture."""
    culture = rng.choice(CULTURES)
    given = rng.choice(culture[sex]) if rng.random() < 0.8 else _name(rng, split, "town")
    last = _name(rng, split, "family", culture if rng.random() < 0.8 else None)
    kind = rng.random()
    if kind < 0.8:
        return f"{given} {last}"
    if kind < 0.87:
        return f"{given} {rng.choice(string.ascii_uppercase)}. {last}"
    if kind < 0.94:
        return f"{given} {_name(rng, split, 'family', culture)}{rng.choice(' -')}{last}"
    return f"{rng.choice(('Dr.', 'Professor'))} {last}"


def town(rng: random.Random, split: str) -> str:
    """A town such as `Brenford` or `Port Halwick`."""
    name = _name(rng, split, "town")
    return f"{rng.choice(words_of('town_start'))} {name}" if rng.random() < 0.15 else name


def place(rng: random.Random, split: str) -> str:
    """A place: a town with its country or state, a town alone, or a country."""
    kind = rng.random()
    if kind < 0.1:
        return rng.choice(words_of("country"))
    culture = rng.choice(CULTURES)
    name = _name(rng, split, "town", culture)
    return name if kind < 0.45 else f"{name}, {rng.choice(culture['country'])}"


def street(rng: random.Random, split: str) -> str:
    """An address such as `1204 Brenlow Avenue`."""
    kind = rng.choice(words_of("street_kind"))
    return f"{rng.randint(1, 9999)} {family(rng, split)} {kind}"


def code(rng: random.Random, split: str) -> str:
    """A model number such as `GX-400` or `32LV2500`."""
    pools = {"A": string.ascii_uppercase, "9": string.digits, "a": "eimx"}

    def make(r: random.Random) -> str:
        return "".join(r.choice(pools.get(mark, mark)) for mark in r.choice(words_of("code_shape")))

    return _in_split(make, rng, split)


def year(rng: random.Random, _split: str) -> str:
    return str(rng.randint(1998, 2024) if rng.random() < 0.75 else rng.randint(1955, 1997))


def old_year(rng: random.Random, _split: str) -> str:
    value = rng.randint(1480, 1975)
    return f"{value // 10 * 10}s" if rng.random() < 0.15 else str(value)


def date(rng: random.Random, _split: str) -> str:
    """A date in one of the usual formats."""
    when = datetime.date(rng.randint(1960, 2024), rng.randint(1, 12), rng.randint(1, 28))
    month, weekday = words_of("month")[when.month - 1], words_of("weekday")[when.weekday()]
    shape = rng.choice(words_of("date_shape"))
    return shape.format(day=when.day, month=month, short=month[:3], number=when.month, year=when.year, weekday=weekday)


def size(rng: random.Random, _split: str) -> str:
    """Measures such as `30 x 40 cm`, `54"` or `12 inches`."""
    one, other = rng.randint(3, 120), rng.randint(3, 120)
    unit, shape = rng.choice(words_of("unit")), rng.choice(words_of("size_shape"))
    return shape.format(one=one, other=other, third=rng.randint(2, 60), tenth=rng.randint(1, 9), unit=unit)


def amount(rng: random.Random, _split: str) -> str:
    """The amount in a package, such as `250 ml` or `1.5 kg`."""
    value = rng.choice(
        (rng.randint(2, 9), rng.randint(10, 99), rng.randint(2, 40) * 25, f"{rng.randint(0, 9)}.{rng.randint(1, 9)}")
    )
    return f"{value}{rng.choice((' ', ''))}{rng.choice(('ml', 'g', 'kg', 'oz', 'L', 'fl oz', 'lb', 'cl'))}"


def price(rng: random.Random, _split: str) -> str:
    """A price such as `$29.99` or `€1,250`."""
    value = rng.choice((rng.randint(2, 99), rng.randint(100, 990), f"{rng.randint(1, 9)},{rng.randint(100, 999)}"))
    return f"{rng.choice('$$$£€')}{value}{rng.choice(('', '.99', '.50', '.00'))}"


def number(rng: random.Random, _split: str) -> str:
    return str(rng.randint(2, rng.choice((12, 24, 100, 1000))))


def phrase(rng: random.Random, split: str) -> str:
    """The title of a book, film or other work, such as `The Silent Harbor of Brenlow`."""

    def pick() -> str:
        if rng.random() < 0.78:
            return capital(rng.choice(VOCABULARY))
        return (made if rng.random() < 0.5 else family)(rng, split)

    shape = rng.choice(words_of("phrase_shape"))
    return shape.format(*(pick() for _ in range(shape.count("{}"))))


def word(rng: random.Random, _split: str) -> str:
    """A common word."""
    return rng.choice(VOCABULARY)


def few(rng: random.Random, _split: str) -> str:
    return str(rng.randint(2, 20))


def tens(rng: random.Random, _split: str) -> str:
    return str(rng.randint(20, 220))


def latin(rng: random.Random, split: str) -> str:
    """A species' name such as `Velia trelosa`."""

    def make(r: random.Random) -> str:
        return _stem(r, CULTURES[0]) + r.choice(words_of("latin_ending"))

    return f"{capital(_in_split(make, rng, split))} {_in_split(make, rng, split).lower()}"


_MAKERS = (
    made, lower_word, brand, family, town, place, street, code, year, old_year, date, size, amount, price, number,
    phrase, word, few, tens, latin,
)  # fmt: skip
GENERATORS: dict[str, Callable[[random.Random, str], str]] = {maker.__name__: maker for maker in _MAKERS}
