"""Open-vocabulary names: pseudo-words of many phonologies, codes and the persons, places and products built from them.

Every pseudo-word and every code with a letter belongs to exactly one split by its CRC-32 (never by Python's `hash`,
which changes with each process), so that no name of the held-out pairs can have been seen in training.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable

from capsfusion_tasks.demo.pairs import lexicon

SPLITS = ("train", "heldout", "sample")


def split_of(word: str) -> str:
    """The split to which a pseudo-word or code belongs, whatever its case."""
    bucket = zlib.crc32(word.lower().encode("utf-8")) % 20
    return "heldout" if bucket == 0 else "sample" if bucket == 1 else "train"


def _in_split(make: Callable[[random.Random], str], rng: random.Random, split: str) -> str:
    while True:
        word = make(rng)
        if split_of(word) == split:
            return word


# Onsets, vowels, codas and endings of syllables. "-" stands for nothing.
_SYLLABLES: tuple[tuple[tuple[str, ...], ...], ...] = tuple(
    tuple(tuple("" if unit == "-" else unit for unit in part.split()) for part in phonology)
    for phonology in (
        # English
        (
            "b br c ch cl d dr f fl g gr h j k l m n p qu r s sh st t th tr w wh -",
            "a e i o u ea oo ai ee ou",
            "n r l t d ck ss ll nd st rn m x ng ft -",
            "ton ford ley well wood man son field worth by ham er bury shire ing en y s land more -",
        ),
        # Italian and Spanish
        (
            "b br c ch d f g gl l m n p qu r s sc t tr v z gu j -",
            "a e i o u ia io ue á é í ó",
            "- - - n r l s",
            "ini elli ano etto ez era oso ina ona illo ado ino ucci ández ña co ro la",
        ),
        # French
        (
            "b bl c ch d f g j l m n p r s t v gr pl -",
            "a e i o u ou au é ai oi eu è ê",
            "n r l s t - -",
            "eau ault ier ette elle on ois ard ine eux ique ville ère ès çon",
        ),
        # Slavic
        (
            "b br c cz d dr g h k kr l m n p pr r s sl st t v vl z zh j š ž č",
            "a e i o u y",
            "n r l k v s - - j",
            "ov ova ski sky enko ić ich ev in nik ska yev ek ka grad eva uk",
        ),
        # Nordic
        (
            "b bj d f fj g h hj k kn l m n r s sk sv t v -",
            "a e i o u å ø ö ä y ei au",
            "n r l g k rd nd lm - s",
            "sen son strøm berg vik dal heim gård lund ström quist stad rud sson nes fjord",
        ),
        # German
        (
            "b br d f g h k kl l m n pf r s sch st t w z schw -",
            "a e i o u ei au ö ü ä ie eu",
            "n r l tz ch ck s rg mm - ss",
            "mann berg stein hof er burg bach feld haus ung rich wald ler heimer ß",
        ),
        # Turkish, Hungarian
        (
            "b d g h k l m n s t y z ç ş v c gy sz",
            "a e i o u ü ö ı",
            "n r l k t z m s - y",
            "oğlu kaya lar demir an ul ay em di ák y es ó ér",
        ),
        # Japanese
        (
            "k s t n h m y r w g z d b ch sh ts -",
            "a i u e o a i o",
            "- - - - n",
            "moto yama kawa da ta shi ra ko mi no saki guchi zu ki",
        ),
        # Chinese, Korean, Vietnamese
        (
            "b ch d f g h j k l m n p q s sh t w x y z zh ng",
            "a ai ao e ei i ia iu o ou u ui ua",
            "n ng - - k m",
            "ng n - g long hua jin min ho yang",
        ),
        # Indian
        (
            "b bh ch d dh g j k kh l m n p r s sh t th v y -",
            "a aa i u e o ee",
            "n r l m - - sh t",
            "pur abad kar iya singh raj ani wal deep nath an esh endra i a am",
        ),
        # Arabic, Persian
        (
            "b d f gh h j k kh l m n q r s sh t w y z -",
            "a i u aa ee ou",
            "n r l m d h b - s",
            "i ah een ad ari zadeh pour ullah an een ar",
        ),
        # African, Polynesian
        (
            "b d k l m mb n nd ng ny p t w z kw h f",
            "a e i o u a o",
            "- - - - -",
            "ba ko ngo la ma ni du wa mbe lo kai nui ua",
        ),
        # made-up trade names
        (
            "z x v k qu tr pl n l m b fl gl cr sp sw t r",
            "a e i o u y io ea oo",
            "x n r l z t ck - - v",
            "ix ex on ia io ly ify tech ra zo um is ora eo ify ium ax",
        ),
        # Latin and Greek
        (
            "c d f g l m n p ph r s st t th v rh ch -",
            "a e i o u ae ia y",
            "n r l s - x c",
            "us um a is ensis oides ella ata ina ophyllum odon ides icus",
        ),
    )
)


def _syllabic(rng: random.Random) -> str:
    onsets, vowels, codas, endings = rng.choice(_SYLLABLES)
    draw = rng.random
    parts: list[str] = []
    for _ in range(1 + (draw() < 0.45) + (draw() < 0.08)):
        parts += (onsets[int(draw() * len(onsets))], vowels[int(draw() * len(vowels))], codas[int(draw() * len(codas))])
    if draw() < 0.6:
        parts.append(endings[int(draw() * len(endings))])
    word = "".join(parts)
    return word if len(word) > 2 else word + "na"


# Letters and pieces of lexicon words in new orders, so that every piece of the vocabulary is copied at times.
_FRAGMENT_SOURCE = tuple(
    sorted(
        {
            word.lower()
            for word in (
                *lexicon.TITLE_NOUNS,
                *lexicon.TITLE_ADJECTIVES,
                *lexicon.TITLE_VERBS,
                *lexicon.ADJECTIVES,
                *lexicon.HEAD_VERBS,
                *(
                    w
                    for d in lexicon.DOMAINS.values()
                    for g in (d.nouns, d.title, d.props, d.poses)
                    for p in g
                    for w in p.split()
                ),
            )
            if len(word) > 3 and word.isalpha()
        }
    )
)


def _fragments(rng: random.Random) -> str:
    parts = []
    for _ in range(2 + (rng.random() < 0.15)):
        source = rng.choice(_FRAGMENT_SOURCE)
        length = rng.randint(2, 6)
        parts.append(source[:length] if rng.random() < 0.6 else source[-length:])
    return "".join(parts)


def _mutated(rng: random.Random) -> str:
    source = rng.choice(_FRAGMENT_SOURCE)
    place = rng.randrange(len(source))
    letter = rng.choice("abcdefghijklmnoprstuvwyz")
    return (
        source[:place] + letter + source[place + rng.randint(0, 1) :] + rng.choice(("", "", "s", "er", "ie", "o", "a"))
    )


def _letters(rng: random.Random) -> str:
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzaeiouaeiouéüñø") for _ in range(rng.randint(3, 8)))


def _compound(rng: random.Random) -> str:
    return rng.choice(_FRAGMENT_SOURCE) + rng.choice(_FRAGMENT_SOURCE)


def _pseudo(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.62:
        return _syllabic(rng)
    if kind < 0.80:
        return _fragments(rng)
    if kind < 0.88:
        return _mutated(rng)
    if kind < 0.95:
        return _compound(rng)
    return _letters(rng)


def lower_word(rng: random.Random, split: str) -> str:
    """A pseudo-word in lower case."""
    return _in_split(_pseudo, rng, split)


def capital(word: str) -> str:
    """`word` with its first letter in upper case and the rest as it stands."""
    return word[:1].upper() + word[1:]


def word(rng: random.Random, split: str) -> str:
    """A capitalised pseudo-word such as `Brenlow`, at times with a hyphen, an apostrophe or a second capital."""
    name = capital(lower_word(rng, split))
    kind = rng.random()
    if kind < 0.90:
        return name
    if kind < 0.94:
        return f"{name}-{capital(lower_word(rng, split))}"
    if kind < 0.97:
        return rng.choice(("O'", "D'", "Mc", "Mac", "L'", "De", "St. ", "van ", "al-", "El ")) + name
    return name + rng.choice(("Works", "Lab", "Box", "Go", "Line", "Tech", "Soft", "Pro", "Mart", "Hub"))


def acronym(rng: random.Random, split: str) -> str:
    """Two to five capitals such as `KBTV`."""
    return _in_split(
        lambda r: "".join(r.choice(string.ascii_uppercase) for _ in range(r.choice((2, 3, 3, 3, 4, 4, 5)))), rng, split
    )


def _raw_code(rng: random.Random) -> str:
    def letters(low: int, high: int) -> str:
        return "".join(rng.choice(string.ascii_uppercase) for _ in range(rng.randint(low, high)))

    def digits(low: int, high: int) -> str:
        return "".join(rng.choice(string.digits) for _ in range(rng.randint(low, high)))

    kind = rng.randrange(9)
    if kind == 0:
        return f"{letters(1, 3)}-{digits(1, 4)}"
    if kind == 1:
        return f"{letters(1, 3)}{digits(1, 4)}"
    if kind == 2:
        return f"{digits(2, 4)}{letters(1, 2)}"
    if kind == 3:
        return f"{letters(2, 3)}{digits(2, 4)}{letters(1, 3)}"
    if kind == 4:
        return f"{letters(1, 2)}{digits(1, 2)}.{digits(1, 2)}"
    if kind == 5:
        return f"{letters(1, 2)}{digits(1, 3)}/{digits(1, 3)}"
    if kind == 6:
        return f"{digits(1, 3)}-{letters(2, 4)}"
    if kind == 7:
        return f"{letters(1, 1).lower()}{letters(1, 1)}{digits(1, 3)}"
    return f"{letters(2, 4)}-{digits(2, 4)}-{letters(1, 2)}"


def code(rng: random.Random, split: str) -> str:
    """A model number such as `GX-400` or `32LV2500`."""
    return _in_split(_raw_code, rng, split)


def brand(rng: random.Random, split: str) -> str:
    """A trade name: pseudo-word mostly, at times an acronym, two names or one that exists."""
    kind = rng.random()
    if kind < 0.62:
        return word(rng, split)
    if kind < 0.72:
        return acronym(rng, split)
    if kind < 0.76:
        return word(rng, split) + rng.choice((" & ", " and ")) + word(rng, split)
    if kind < 0.80:
        return lower_word(rng, split).upper()
    if kind < 0.84:
        return capital(lower_word(rng, split)) + capital(lower_word(rng, split))
    if kind < 0.88:
        return word(rng, split) + "'s"
    return rng.choice(lexicon.BRANDS)


def person(rng: random.Random, split: str) -> str:
    """A person's name such as `Anna K. Brenlow`."""
    first = rng.choice(lexicon.GIVEN_NAMES) if rng.random() < 0.6 else capital(lower_word(rng, split))
    last = word(rng, split) if rng.random() < 0.85 else rng.choice(lexicon.SURNAMES)
    kind = rng.random()
    if kind < 0.80:
        return f"{first} {last}"
    if kind < 0.86:
        return f"{first} {rng.choice(string.ascii_uppercase)}. {last}"
    if kind < 0.92:
        return f"{first} {word(rng, split)} {last}"
    if kind < 0.95:
        return f"{rng.choice(string.ascii_uppercase)}.{rng.choice(string.ascii_uppercase)}. {last}"
    return f"{rng.choice(('Dr.', 'Sir', 'Lady', 'Prince', 'St.', 'DJ', 'Captain', 'Mr.', 'Queen'))} {last}"


_TOWN_STARTS = ("San", "New", "Port", "Mount", "Lake", "North", "Upper", "Fort", "South", "Old", "Santa", "West")


def town(rng: random.Random, split: str) -> str:
    """A town's name, seven in ten made up."""
    if rng.random() < 0.3:
        return rng.choice(lexicon.CITIES)
    name = word(rng, split)
    kind = rng.random()
    if kind < 0.8:
        return name
    return f"{rng.choice(_TOWN_STARTS)} {name}"


def place(rng: random.Random, split: str) -> str:
    """A place such as `Brenlow, Norway`."""
    name = town(rng, split)
    if rng.random() < 0.45:
        name += ", " + (rng.choice(lexicon.COUNTRIES) if rng.random() < 0.8 else word(rng, split))
    return name


def number(rng: random.Random) -> str:
    """A number of one to five digits, small ones mostly."""
    return str(rng.randint(2, (12, 12, 100, 100, 1000, 60000)[rng.randrange(6)]))


def year(rng: random.Random) -> str:
    """A year, recent ones mostly, at times a decade or a span."""
    value = rng.randint(1990, 2024) if rng.random() < 0.7 else rng.randint(1500, 1989)
    kind = rng.random()
    if kind < 0.9:
        return str(value)
    if kind < 0.95:
        return f"{value // 10 * 10}s"
    return f"{value}-{value + rng.randint(1, 9)}"


def date(rng: random.Random) -> str:
    """A date in one of the forms that web pages use, without a year at times."""
    day, month, value = rng.randint(1, 28), rng.randrange(12), rng.randint(1950, 2024)
    kind = rng.randrange(7)
    if kind == 0:
        return f"{lexicon.MONTHS[month]} {day}, {value}"
    if kind == 1:
        return f"{day} {lexicon.MONTHS[month]} {value}"
    if kind == 2:
        return f"{lexicon.SHORT_MONTHS[month]} {day}, {value}"
    if kind == 3:
        return f"{lexicon.MONTHS[month]} {day}"
    if kind == 4:
        return f"{day:02d}/{month + 1:02d}/{value}"
    if kind == 5:
        return f"{lexicon.MONTHS[month]} {value}"
    return f"{month + 1:02d}-{day:02d}-{value}"
