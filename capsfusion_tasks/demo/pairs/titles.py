"""What a web page says about an image: a title for the kind of subject, and details (year, place, size, maker)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from capsfusion_tasks.demo.pairs import lexicon, names


@dataclass(frozen=True)
class Title:
    """A title in the raw caption, in the fused one, the strings in it that must not be lost, and what the thing is."""

    raw: str
    fused: str
    entities: tuple[str, ...]
    noun: str = ""


@dataclass(frozen=True)
class Detail:
    """One more fact: its raw form with the separator before it, its fluent form, and that at a sentence's start."""

    raw: str
    fused: str
    front: str = ""
    entities: tuple[str, ...] = field(default=())


def title_words(rng: random.Random, split: str, low: int = 1, high: int = 6) -> str:
    """A work's title such as `The Silent River of Brenlow`."""
    parts: list[str] = []
    for _ in range(rng.randint(low, high)):
        kind = rng.random()
        if kind < 0.36:
            parts.append(rng.choice(lexicon.TITLE_NOUNS))
        elif kind < 0.60:
            parts.append(rng.choice(lexicon.TITLE_ADJECTIVES))
        elif kind < 0.70:
            parts.append(rng.choice(lexicon.TITLE_VERBS))
        elif kind < 0.88:
            parts.append(names.word(rng, split))
        elif kind < 0.93:
            parts.append(rng.choice(lexicon.GIVEN_NAMES))
        else:
            parts.append(names.number(rng))
        if rng.random() < 0.22:
            parts.append(
                rng.choice(
                    (
                        "of",
                        "the",
                        "and",
                        "in",
                        "for",
                        "of the",
                        "in the",
                        "to",
                        "with",
                        "from",
                        "&",
                        "on",
                        "at",
                        "a",
                        "by",
                    )
                )
            )
    while parts and not parts[-1][0].isupper() and not parts[-1][0].isdigit():
        parts.pop()
    if parts and rng.random() < 0.2:
        parts.insert(0, rng.choice(("The", "A", "My", "Our", "How to", "Why", "What")))
    return " ".join(parts) if parts else names.word(rng, split)


def _quoted(rng: random.Random, text: str) -> tuple[str, str]:
    """`text` in the raw caption's and in the fused caption's quotation marks."""
    kind = rng.random()
    if kind < 0.45:
        return f'"{text}"', f'"{text}"'
    if kind < 0.60:
        return f"'{text}'", f"'{text}'" if "'" not in text else f'"{text}"'
    if kind < 0.75:
        return f"&quot;{text}&quot;", f'"{text}"'
    if kind < 0.90:
        return f"“{text}”", f'"{text}"'
    return f'""{text}""', f'"{text}"'


def _product(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    noun = rng.choice(domain.title)
    maker = names.brand(rng, split)
    parts: list[str] = [maker]
    entities = [maker]
    if rng.random() < 0.45:
        model = names.code(rng, split) if rng.random() < 0.6 else names.word(rng, split)
        parts.append(model)
        entities.append(model)
    for _ in range((0, 0, 1, 1, 2)[rng.randrange(5)]):
        parts.append(
            rng.choice(lexicon.TITLE_ADJECTIVES) if rng.random() < 0.7 else rng.choice(lexicon.MATERIALS).title()
        )
    if rng.random() < 0.3:
        parts.append(rng.choice(lexicon.COLOURS).title())
    parts.append(noun)
    if rng.random() < 0.2:
        value = names.year(rng)
        parts.insert(0, value)
        entities.append(value)
    elif rng.random() < 0.12:
        parts = [*parts[1:], "by", maker]
    if rng.random() < 0.1:
        parts.append(
            names.number(rng)
            + rng.choice(("GB", "ml", "W", "mm", "cm", "kg", "oz", '"', " inch", "L", "V", " Pack", "pc"))
        )
    text = " ".join(parts)
    return Title(text, text, tuple(entities), noun)


def _artwork(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name = title_words(rng, split, 1, 4)
    raw, fused = _quoted(rng, name) if rng.random() < 0.5 else (name, name)
    artist = names.person(rng, split)
    noun = rng.choice(domain.title)
    kind = rng.random()
    if kind < 0.35:
        return Title(f"{raw} by {artist}", f"{fused} by {artist}", (name, artist))
    if kind < 0.6:
        return Title(f"{artist} - {raw}", f"{fused} by {artist}", (name, artist))
    if kind < 0.8:
        return Title(f"{artist}, {raw}, {noun}", f"{noun} {fused} by {artist}", (name, artist))
    return Title(f"{raw} {noun} by {artist}", f"{fused} {noun} by {artist}", (name, artist))


def _media(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name = title_words(rng, split, 1, 6)
    if rng.random() < 0.2:
        name += ": " + title_words(rng, split, 2, 5)
    raw, fused = _quoted(rng, name) if rng.random() < 0.4 else (name, name)
    author = names.person(rng, split) if rng.random() < 0.8 else names.brand(rng, split)
    noun = rng.choice(domain.title)
    kind = rng.random()
    if kind < 0.3:
        return Title(f"{raw} by {author}", f"{fused} by {author}", (name, author))
    if kind < 0.5:
        return Title(f"{author} - {raw}", f"{fused} by {author}", (name, author))
    if kind < 0.7:
        return Title(f"{raw} ({noun})", f"{noun} {fused}", (name,))
    if kind < 0.85:
        return Title(f"{author} - {raw} ({noun})", f"{noun} {fused} by {author}", (name, author))
    return Title(f"{raw} {noun}", f"{fused} {noun}", (name,))


_GROUPS = ("Rovers", "United", "Tigers", "Council", "Institute", "Records", "Bears", "Kings", "FC", "Eagles")


def _person(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name = names.person(rng, split)
    role = rng.choice(domain.title)
    group = names.word(rng, split) if rng.random() < 0.7 else f"{names.town(rng, split)} {rng.choice(_GROUPS)}"
    kind = rng.random()
    if kind < 0.25:
        return Title(f"{name}, {role} of {group}", f"{name}, {role} of {group},", (name, group))
    if kind < 0.45:
        return Title(f"{group} {role} {name}", f"{group} {role} {name}", (name, group))
    if kind < 0.60:
        return Title(f"{role.title()} {name}", f"{role.title()} {name}", (name,))
    if kind < 0.80:
        return Title(name, name, (name,))
    other = names.person(rng, split)
    if kind < 0.92:
        return Title(f"{name} and {other}", f"{name} and {other}", (name, other))
    return Title(f"{name} ({role})", f"{role} {name}", (name,))


def _place(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name, noun = names.town(rng, split), rng.choice(domain.title)
    kind = rng.random()
    if kind < 0.6:
        text = f"{name} {noun}"
    elif kind < 0.8:
        text, noun = f"{noun} of {name}", noun
    elif kind < 0.9:
        street = rng.choice(("Street", "Road", "Avenue", "Drive", "Lane", "Ct", "Blvd"))
        name = f"{rng.randint(1, 9999)} {names.word(rng, split)} {street}"
        text = name
    else:
        text = f"{rng.choice(lexicon.TITLE_ADJECTIVES)} {name} {noun}"
    return Title(text, text, (name,), noun)


def _animal(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name, noun = names.word(rng, split), rng.choice(domain.title)
    kind = rng.random()
    if kind < 0.35:
        text = f"{name} {noun}"
    elif kind < 0.6:
        text = f"{name} the {noun}"
    elif kind < 0.8:
        latin = f"{names.word(rng, split)} {names.lower_word(rng, split)}"
        return Title(f"{name} {noun} ({latin})", f"{name} {noun} ({latin})", (name, latin))
    else:
        text = f"{rng.choice(lexicon.TITLE_ADJECTIVES)} {name} {noun}"
    return Title(text, text, (name,), noun)


def _food(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name, noun = names.brand(rng, split), rng.choice(domain.title)
    adjective = rng.choice(lexicon.TITLE_ADJECTIVES)
    kind = rng.random()
    if kind < 0.4:
        text = f"{adjective} {name} {noun}"
    elif kind < 0.6:
        text = f"{name} {noun} Recipe"
    elif kind < 0.8:
        text = f"{noun} with {name} {rng.choice(('Sauce', 'Cheese', 'Butter', 'Spice', 'Glaze', 'Beans', 'Syrup'))}"
    else:
        text = f"{name} {adjective} {noun}"
    return Title(text, text, (name,), noun)


def _event(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    name, noun = names.town(rng, split) if rng.random() < 0.7 else names.brand(rng, split), rng.choice(domain.title)
    entities = [name]
    text = f"{name} {noun}"
    if rng.random() < 0.25:
        text = f"{rng.choice(('Annual', 'International', '10th Annual', '1st', '2nd', '25th', 'National'))} {text}"
    if rng.random() < 0.45:
        value = names.year(rng)
        text = f"{text} {value}" if rng.random() < 0.6 else f"{value} {text}"
        entities.append(value)
    return Title(text, text, tuple(entities))


_MAKERS = {
    "product": _product,
    "artwork": _artwork,
    "media": _media,
    "person": _person,
    "place": _place,
    "animal": _animal,
    "food": _food,
    "event": _event,
}


def make_title(rng: random.Random, domain: lexicon.Domain, split: str) -> Title:
    """A title of the domain's kind."""
    return _MAKERS[domain.kind](rng, domain, split)


def _year(rng: random.Random, _split: str) -> Detail:
    value = names.year(rng)
    return Detail(
        rng.choice((f", {value}", f" ({value})", f" - {value}", f" {value}", f", c. {value}")),
        f"from {value}",
        f"In {value}",
        (value,),
    )


def _place_detail(rng: random.Random, split: str) -> Detail:
    where = names.place(rng, split)
    return Detail(
        rng.choice((f" in {where}", f" in {where}", f" - {where}", f" ({where})", f", {where}", f" at {where}")),
        f"in {where}",
        f"In {where}",
        (where,),
    )


def _date_detail(rng: random.Random, _split: str) -> Detail:
    when = names.date(rng)
    # "in May 1998", but "on May 24".
    before = "in" if when[0].isalpha() and when.count(" ") == 1 and when[-4:].isdigit() else "on"
    raw = rng.choice((f" {before} {when}", f", {when}", f" - {when}", f" ({when})"))
    return Detail(raw, f"{before} {when}", f"{names.capital(before)} {when}", (when,))


def _maker(rng: random.Random, split: str) -> Detail:
    who = names.person(rng, split) if rng.random() < 0.6 else names.brand(rng, split)
    return Detail(rng.choice((f" by {who}", f" by {who}", f" from {who}")), f"by {who}", "", (who,))


def _photographer(rng: random.Random, split: str) -> Detail:
    who = names.person(rng, split)
    return Detail(
        rng.choice((f" (Photo by {who})", f". Photo: {who}", f" / Photo by {who}", f" © {who}")),
        f"photographed by {who}",
        "",
        (who,),
    )


def _size(rng: random.Random, _split: str) -> Detail:
    kind = rng.random()
    if kind < 0.5:
        value = f"{rng.randint(2, 99)}{rng.choice(('x', ' x ', '×'))}{rng.randint(2, 99)}"
        value += " " + rng.choice(("cm", "inches", "mm", "in", "ft"))
        return Detail(
            rng.choice((f" {value}", f" - {value}", f" ({value})", f", {value}")), f"measuring {value}", "", (value,)
        )
    if kind < 0.8:
        value = rng.choice(("S", "M", "L", "XL", "XXL", "8", "10", "38", "42", "26", "6.5", "7-9", "3T"))
        return Detail(
            rng.choice((f", Size {value}", f" - Size: {value}", f" (Size {value})")), f"in size {value}", "", (value,)
        )
    value = f"{rng.choice(('$', '£', '€'))}{rng.randint(1, 900)}{rng.choice(('', '.99', '.50', '.00'))}"
    return Detail(
        rng.choice((f" - {value}", f" {value}", f" for {value}", f" ({value})")), f"priced at {value}", "", (value,)
    )


def _colour(rng: random.Random, _split: str) -> Detail:
    value = rng.choice(lexicon.COLOURS)
    value = value.title() if rng.random() < 0.7 else value
    return Detail(
        rng.choice((f" - {value}", f", {value}", f" in {value}", f" ({value})", f" | {value}")),
        f"in {value}",
        "",
        (value,),
    )


def _material(rng: random.Random, _split: str) -> Detail:
    value = rng.choice(lexicon.MATERIALS)
    value = value.title() if rng.random() < 0.7 else value
    return Detail(rng.choice((f" - {value}", f", {value}", f" in {value}")), f"made of {value}", "", (value,))


def _purpose(rng: random.Random, split: str) -> Detail:
    kind = rng.random()
    if kind < 0.4:
        value = rng.choice(lexicon.TITLE_NOUNS)
    elif kind < 0.7:
        maker = names.brand(rng, split)
        value = f"{maker} {names.code(rng, split) if rng.random() < 0.5 else rng.choice(lexicon.TITLE_NOUNS)}"
    else:
        value = rng.choice(
            (
                "Men",
                "Women",
                "Kids",
                "Boys and Girls",
                "Beginners",
                "Children",
                "the Home",
                "Sale",
                "Two",
                "Your Garden",
            )
        )
    return Detail(f" for {value}", f"for {value}", "", (value,))


def _with_part(rng: random.Random, split: str) -> Detail:
    value = (
        f"{rng.choice(lexicon.TITLE_ADJECTIVES)} {rng.choice(lexicon.TITLE_NOUNS)}"
        if rng.random() < 0.6
        else f"{names.word(rng, split)} {rng.choice(lexicon.TITLE_NOUNS)}"
    )
    return Detail(rng.choice((f" with {value}", f" w/ {value}", f" + {value}")), f"with {value}", "", (value,))


def _set_of(rng: random.Random, _split: str) -> Detail:
    value = rng.choice(("set", "pack", "box", "pair", "lot")) + " of " + names.number(rng)
    return Detail(rng.choice((f" - {value}", f", {value}", f" ({value})")), f"as a {value}", "", (value,))


def _series(rng: random.Random, split: str) -> Detail:
    value = f"{names.word(rng, split)} {rng.choice(('Collection', 'Series', 'Edition', 'Range', 'Line'))}"
    return Detail(
        rng.choice((f" - {value}", f", {value}", f" ({value})", f" | {value}")), f"from the {value}", "", (value,)
    )


def _at_event(rng: random.Random, split: str) -> Detail:
    value = f"{names.town(rng, split)} {rng.choice(lexicon.DOMAINS['events'].title)}"
    return Detail(
        rng.choice((f" at the {value}", f" at {value}", f" during the {value}", f" - {value}")),
        f"at the {value}",
        f"At the {value}",
        (value,),
    )


def _versus(rng: random.Random, split: str) -> Detail:
    value = names.word(rng, split)
    return Detail(rng.choice((f" vs {value}", f" v {value}", f" against {value}")), f"against {value}", "", (value,))


_DETAILS = {
    "product": (
        _place_detail,
        _size,
        _size,
        _colour,
        _colour,
        _material,
        _purpose,
        _with_part,
        _set_of,
        _series,
        _year,
        _maker,
    ),
    "artwork": (_year, _year, _size, _place_detail, _material, _series),
    "media": (_year, _place_detail, _date_detail, _with_part, _series),
    "person": (_place_detail, _place_detail, _date_detail, _date_detail, _photographer, _at_event, _at_event, _versus),
    "place": (_place_detail, _place_detail, _date_detail, _photographer, _year, _with_part, _purpose),
    "animal": (_place_detail, _place_detail, _photographer, _date_detail, _with_part, _at_event),
    "food": (_maker, _place_detail, _purpose, _with_part, _series, _size),
    "event": (_place_detail, _place_detail, _date_detail, _photographer, _purpose),
}


def make_details(rng: random.Random, kind: str, split: str) -> list[Detail]:
    """Up to four details of different sorts that suit the kind of subject, none in a third of the captions."""
    count = (0, 0, 1, 1, 1, 2, 2, 3, 4)[rng.randrange(9)]
    makers = list(dict.fromkeys(rng.choice(_DETAILS[kind]) for _ in range(count)))
    return [make(rng, split) for make in makers]
