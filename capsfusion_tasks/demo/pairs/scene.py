"""A scene: facts drawn once, which the raw, the synthetic and the fused caption all tell."""

from __future__ import annotations

import random
import re

from capsfusion_tasks.demo.pairs import names
from capsfusion_tasks.demo.pairs.template import Choice, Optional, Sequence, Slot, parse
from capsfusion_tasks.demo.pairs.words import DOMAINS, words_of

# A fused caption may leave these out: what sells, and who took the picture.
DROPPED = frozenset({"credit", "price", "man", "he", "his", "him"})
# Words that a title writes without a capital.
_SMALL = frozenset(words_of("small_word"))
# Nouns that take no article.
_MASS = frozenset(words_of("mass_noun"))
_PLURAL = re.compile(r"(?:two|three|four|five|six|several|some|many|people|men|women|children|friends)\b")
_NO_PLURAL = re.compile(r"(?:ss|us|is|canvas|glass|lens|gas|news)$")

# Modifiers that write a verb, a pronoun or an article that agrees with the slot, and not the slot.
_AGREEMENT = frozenset(("is", "has", "v", "It", "it", "A"))


class Untold(Exception):
    """The template says something that the sources do not say."""


def is_plural(value: str) -> bool:
    """Whether a noun phrase such as `two black boots with a zipper` needs a verb in the plural."""
    if _PLURAL.match(value):
        return True
    if value.startswith(("a ", "an ", "the ", "its ")):
        return " and " in value.split(" with ")[0]
    head = re.split(r" (?:of|with|in|on|at|from|for|that|holding|wearing|carrying|playing) ", value)[0]
    return (
        " and " in head
        or (head.endswith("s") and not _NO_PLURAL.search(head))
        or head.endswith(("people", "men", "children"))
    )


def article(value: str) -> str:
    """`value` with "a" before it, where it needs one."""
    if is_plural(value) or value.startswith(("a ", "an ", "the ", "some ")):
        return value
    return value if value in _MASS else f"a {value}"


def title_case(value: str) -> str:
    """`value` as in a title: capitals but in small words. Words with a capital or a digit stay."""
    words = value.removeprefix("a ").removeprefix("an ").split(" ")
    return " ".join(word if place and word in _SMALL else names.capital(word) for place, word in enumerate(words))


def _has_slot(sequence: Sequence) -> bool:
    return any(isinstance(node, Slot) for node in sequence)


class Scene:
    """Facts by slot. `draw` draws those that a template asks for; `tell` only writes those that were drawn."""

    def __init__(self, rng: random.Random, split: str, domain: str) -> None:
        self.rng, self.split, self.tables = rng, split, DOMAINS[domain]
        self.values: dict[str, str] = {}
        self.inside: dict[str, set[str]] = {}  # slots of which a value is made
        self.drawn: set[str] = set()
        self.told: set[str] = set()
        self.sex = rng.choice("mf")
        self.skip = frozenset(self.tables[0].get("skip", ()))  # facts that the domain's scenes do not have

    def entries(self, root: str) -> list[str]:
        for tables in self.tables:
            if root in tables:
                return tables[root]
        raise KeyError(f"no list has the slot {root!r}")

    def draw(self, template: str) -> str:
        """Write `template`, drawing what it asks for."""
        return "".join(self._draw(parse(template)))

    def _draw(self, sequence: Sequence) -> list[str]:
        parts: list[str] = []
        for node in sequence:
            if isinstance(node, str):
                parts.append(node)
            elif isinstance(node, Optional):
                if self.rng.random() < 0.5 and not self._skips(node.sequence):
                    parts += self._draw(node.sequence)
            elif isinstance(node, Choice):
                parts += self._draw(self.rng.choice(node.options))
            elif node.name[0] == "_":
                parts.append(self._written(self.draw(self.rng.choice(self.entries(node.name))), node))
            elif _AGREEMENT.intersection(node.modifiers):
                parts.append(self._agreement(node))
            else:
                if self._key(node) in self.skip:
                    raise Untold
                self._value(node)
                self.drawn.add(self._key(node))
                parts.append(self._written(self._side(self._key(node)), node))
        return parts

    def _skips(self, sequence: Sequence) -> bool:
        return any(isinstance(node, Slot) and self._key(node) in self.skip for node in sequence)

    def _key(self, node: Slot) -> str:
        return f"{node.name}.g" if node.modifiers[:1] in (("g",), ("ga",)) else node.name

    def _value(self, node: Slot) -> str:
        """The slot's value, drawn now if it is new."""
        if node.name in self.values:
            return self.values[node.name]
        before, self.drawn = self.drawn, set()
        taken = {value for name, value in self.values.items() if name.startswith(node.root)}
        for _ in range(20):
            value = self._new(node.root)
            if value not in taken:
                break
        if self.drawn:
            self.inside[node.name] = self.drawn
        self.drawn = before | self.drawn
        self.values[node.name] = value
        return value

    def _new(self, root: str) -> str:
        rng = self.rng
        if root in ("person", "credit"):
            return names.person(rng, self.split, self.sex if root == "person" else rng.choice("mf"))
        for tables in self.tables:
            if root in tables:
                value = rng.choice(tables[root])
                if root in ("man", "he", "his", "him", "wears"):
                    return value.split("=")[self.sex == "f"]
                return self.draw(value) if "{" in value else value
        return names.GENERATORS[root](rng, self.split)

    def _side(self, key: str) -> str:
        """The specific words of a fact, or the generic ones for a key such as `thing.g`."""
        specific, _, generic = self.values[key.removesuffix(".g")].partition("=")
        return generic or specific if key.endswith(".g") else specific

    def _agreement(self, node: Slot) -> str:
        value = self._value(node).partition("=")
        specific = node.name in self.drawn and node.modifiers[0] != "g"
        plural = is_plural(value[0] if specific else value[2] or value[0])
        kind = node.modifiers[1 if node.modifiers[0] == "g" else 0]
        if kind == "is":
            text = "are" if plural else "is"
        elif kind == "has":
            text = "have" if plural else "has"
        elif kind == "v":
            text = "" if plural else "s"
        elif kind == "A":
            text = "" if plural or value[0] in _MASS or value[2] in _MASS else "a "
        else:
            text = "they" if plural else "it"
            text = text.capitalize() if kind == "It" else text
        return names.capital(text) if node.modifiers[-1] == "C" else text

    def _written(self, text: str, node: Slot) -> str:
        for modifier in node.modifiers:
            if modifier == "T":
                text = title_case(text)
            elif modifier == "C":
                text = names.capital(text)
            elif modifier == "l":
                text = text.lower()
            elif modifier in ("a", "ga"):
                text = article(text)
            elif modifier == "s":
                text = text if is_plural(text) else text + ("es" if text.endswith(("s", "x", "ch", "sh")) else "s")
            elif modifier in ("the", "The"):
                text = self._the(text, node.name)
                text = names.capital(text) if modifier == "The" else text
            elif modifier == "q":
                text = f'"{text}"' if '"' not in text else text
        return text

    def _the(self, text: str, name: str) -> str:
        for common in ("adj", "thing", "medium", "subject"):
            if (
                text.startswith(names.capital(self.values.get(common, "=").partition("=")[0]) + " ")
                and text.split(" ")[1][:1].islower()
            ):
                text = text[0].lower() + text[1:]
        first = text.split(" ", 1)[0]
        bare = {"person", "phrase", "family", "latin", "town"} & {
            min(self.inside.get(name, {name}), key=lambda n: text.find(self.values.get(n, "\0")) % 10_000)
        }
        if (
            first.lower() in ("the", "a", "an", "my", "our", "st.", "this")
            or first[0] in "\"'“"
            or first.endswith(("'s", "’s"))
        ):
            return text[0].lower() + text[1:] if first in ("The", "A", "An") and name != "phrase" else text
        if first.isdigit() and name == "title" and "street" in self.inside.get(name, ()):
            return text
        return text if bare & {"person", "phrase"} or text in _MASS else f"the {text}"

    def tell(self, template: str) -> str:
        """Write `template` with what was drawn. Raises Untold if it says more, or drawn facts remain."""
        self.told = set()
        text = "".join(self._tell(parse(template)))
        if self.missing():
            raise Untold
        return text

    def missing(self) -> set[str]:
        """Facts that were drawn and not told. A generic word is told by the specific one."""
        told = self.told
        rest = {
            key
            for key in self.drawn - told - DROPPED
            if not key.endswith(".g")
            and not (key == "holder" and "holder.g" in told)
            and not (key in self.inside and self.inside[key] <= told | DROPPED)
        }
        generic = {key for key in self.drawn - told if key.endswith(".g") and key[:-2] not in self.drawn | told}
        return rest | {key for key in generic if not key.startswith(("thing", "medium"))}

    def _known(self, node: Slot) -> str | None:
        """The key under which a fused caption may say the slot, if it may."""
        if node.name == "hue":
            return next((key for key in ("colour", "colour.g") if key in self.drawn), None)
        key = self._key(node)
        if key in self.drawn or (
            key.endswith(".g") and (key[:-2] in self.drawn or (node.root == "thing" and node.name in self.values))
        ):
            return key
        return f"{key}.g" if f"{key}.g" in self.drawn else None

    def _tell(self, sequence: Sequence) -> list[str]:
        parts: list[str] = []
        for node in sequence:
            if isinstance(node, str):
                parts.append(node)
            elif isinstance(node, Optional):
                if self._fits(node.sequence, new=True):
                    parts += self._tell(node.sequence)
            elif isinstance(node, Choice):
                options = [option for option in node.options if self._fits(option)]
                options = [
                    option for option in options if self._fits(option, new=True) and _has_slot(option)
                ] or options
                if not options:
                    raise Untold
                parts += self._tell(self.rng.choice(options))
            elif node.name[0] == "_":
                parts.append(self._written("".join(self._tell(parse(self.rng.choice(self.entries(node.name))))), node))
            elif _AGREEMENT.intersection(node.modifiers):
                if node.name not in self.values:
                    raise Untold
                parts.append(self._agreement(node))
            else:
                parts.append(self._told(node))
        return parts

    def _told(self, node: Slot) -> str:
        if node.name in ("he", "his", "him", "man"):
            return self._written(self._value(node), node)
        key = self._known(node)
        if key is None:
            raise Untold
        if key in self.told and node.root not in ("thing", "medium", "people"):
            raise Untold
        self.told |= {key, *self.inside.get(key, ())}
        return self._written(self._side(key), node)

    def _fits(self, sequence: Sequence, new: bool = False) -> bool:
        """Whether all slots outside inner brackets are known and, if `new`, not yet told."""
        for node in sequence:
            if isinstance(node, Slot):
                if node.name[0] == "_" or node.name in ("he", "his", "him", "man"):
                    continue
                if _AGREEMENT.intersection(node.modifiers):
                    if node.name not in self.values:
                        return False
                    continue
                key = self._known(node)
                if key is None or (key in self.told and node.root not in ("thing", "medium", "people")):
                    return False
                if new and key in self.told:
                    return False
            elif isinstance(node, Choice) and not any(self._fits(option) for option in node.options):
                return False
        return True
