"""A scene: random facts that the raw, the synthetic and the fused caption describe.

A fact is the value of a slot (a placeholder in a caption template). Many facts have two forms, `specific=generic`
("sofa=couch"). The key `thing` stands for the specific form ("sofa"), `thing.g` for the generic form ("couch").
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from capsfusion_tasks.demo.pairs import names
from capsfusion_tasks.demo.pairs.english import AGREEMENT, MASS, WRITING, capital, is_plural
from capsfusion_tasks.demo.pairs.template import Choice, Optional, Sequence, Slot, parse
from capsfusion_tasks.demo.pairs.words import DOMAINS

# Slots that depend on the person's sex. Any caption may use them.
_PRONOUNS = frozenset(("man", "he", "his", "him"))
# Slots that a fused caption may leave out, such as prices and photo credits.
_DROPPED = frozenset(("credit", "price")) | _PRONOUNS
# Slots that a fused caption may use twice.
_REPEATED = frozenset(("thing", "medium", "people"))
# Slots whose specific and generic forms a fused caption may both use, if they differ ("the sofa is a couch").
_NAMED_BY = frozenset(("thing", "medium"))
_HAVE_ARTICLE = frozenset(("the", "a", "an", "my", "our", "st.", "this"))


class Untold(Exception):
    """A template needs a fact that is not available, or leaves out a fact that the fused caption must state."""


class Scene:
    """The facts of all slots. `draw` fills the template of a raw or synthetic caption, and draws (chooses) new facts.

    `tell` fills the template of a fused caption with the facts that were drawn.
    """

    def __init__(self, rng: random.Random, split: str, domain: str) -> None:
        self.rng, self.split, self.tables = rng, split, DOMAINS[domain]
        self.values: dict[str, str] = {}
        self.inside: dict[str, set[str]] = {}  # slot → keys of the facts that its value contains
        self.drawn: set[str] = set()  # keys of facts that the raw or the synthetic caption states
        self.told: set[str] = set()  # keys of facts that the fused caption states
        self.sex = rng.choice("mf")
        self.skip = frozenset(self.tables[0].get("skip", ()))  # slots that this domain does not use

    def entries(self, root: str) -> list[str]:
        """The word list `root` of the domain, of its kind, or of all domains: the first of these lists that exists."""
        return next(tables[root] for tables in self.tables if root in tables)

    def draw(self, template: str) -> str:
        """Fill `template`, and choose facts for its slots. Raises Untold for a fact that the domain does not use."""
        return "".join(self._draw(parse(template)))

    def tell(self, template: str) -> str:
        """Fill `template` with the drawn facts. Raises Untold if it needs other facts or leaves out drawn facts."""
        self.told = set()
        text = "".join(self._tell(parse(template)))
        if self._missing():
            raise Untold
        return text

    def _draw(self, sequence: Sequence) -> list[str]:
        parts: list[str] = []
        for node in sequence:
            if isinstance(node, str):
                parts.append(node)
            elif isinstance(node, Optional):
                if self.rng.random() < 0.5 and not any(
                    isinstance(n, Slot) and n.key in self.skip for n in node.sequence
                ):
                    parts += self._draw(node.sequence)
            elif isinstance(node, Choice):
                parts += self._draw(self.rng.choice(node.options))
            elif node.is_macro:
                parts.append(self._written(self.draw(self.rng.choice(self.entries(node.name))), node))
            elif node.agreement:
                parts.append(self._agreement(node))
            elif node.key in self.skip:
                raise Untold
            else:
                self._value(node)
                self.drawn.add(node.key)
                parts.append(self._written(self._side(node.key), node))
        return parts

    def _value(self, node: Slot) -> str:
        """The slot's value. A new value differs from those of the other slots with the same word list."""
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
        if root in ("person", "credit"):
            return names.person(self.rng, self.split, self.sex if root == "person" else self.rng.choice("mf"))
        if not any(root in tables for tables in self.tables):
            return names.GENERATORS[root](self.rng, self.split)
        value = self.rng.choice(self.entries(root))
        if root in _PRONOUNS or root == "wears":
            return value.split("=")[self.sex == "f"]
        return self.draw(value) if "{" in value else value

    def _side(self, key: str) -> str:
        specific, _, generic = self.values[key.removesuffix(".g")].partition("=")
        said = generic or specific if key.endswith(".g") else specific
        if said.endswith(" it") and is_plural(self.values.get("thing", "").partition("=")[0]):
            said = said.removesuffix("it") + "them"
        return said

    def _agreement(self, node: Slot) -> str:
        specific, _, generic = self._value(node).partition("=")
        said = specific if node.name in self.drawn and not node.is_generic else generic or specific
        uncounted = is_plural(said) or (node.agreement == "A" and (specific in MASS or generic in MASS))
        text = AGREEMENT[node.agreement][uncounted]
        return capital(text) if node.modifiers[-1] == "C" else text

    def _written(self, text: str, node: Slot) -> str:
        for modifier in node.modifiers:
            if modifier in WRITING:
                text = WRITING[modifier](text)
            elif modifier in ("the", "The"):
                text = self._with_the(text, node.name)
                text = capital(text) if modifier == "The" else text
        return text

    def _with_the(self, text: str, name: str) -> str:
        """`text` with "the" before it, except for a person, a work in quotation marks or an address."""
        words = text.split(" ")
        common = {
            capital(self.values.get(slot, "=").partition("=")[0]) for slot in ("adj", "thing", "medium", "subject")
        }
        if len(words) > 1 and words[1][:1].islower() and any(text.startswith(f"{word} ") for word in common):
            text = text[0].lower() + text[1:]
            words[0] = text.split(" ", 1)[0]
        if words[0].lower() in _HAVE_ARTICLE or words[0][0] in "\"'“" or words[0].endswith(("'s", "’s")):
            return text[0].lower() + text[1:] if words[0] in ("The", "A", "An") and name != "phrase" else text
        inside = self.inside.get(name, {name})
        first = min(inside, key=lambda slot: text.find(self.values.get(slot, "\0")) % 10_000)
        is_address = words[0].isdigit() and name == "title" and "street" in inside
        return text if is_address or first in ("person", "phrase") or text in MASS else f"the {text}"

    def _missing(self) -> bool:
        """Whether the fused caption left out a drawn fact. A specific word also states its generic word."""
        for key in self.drawn - self.told - _DROPPED:
            slot = key.removesuffix(".g")
            if key != slot:
                if slot not in self.drawn | self.told and not key.startswith(("thing", "medium")):
                    return True
            elif key == "holder" and "holder.g" in self.told:
                continue
            elif key not in self.inside or not self.inside[key] <= self.told | _DROPPED:
                return True
        return False

    def _tell(self, sequence: Sequence) -> list[str]:
        parts: list[str] = []
        for node in sequence:
            if isinstance(node, str):
                parts.append(node)
            elif isinstance(node, Optional):
                if self._fits(node.sequence, new=True):
                    parts += self._tell(node.sequence)
            elif isinstance(node, Choice):
                parts += self._tell(self._chosen(node.options))
            elif node.is_macro:
                said = self._tell(self._chosen(map(parse, self.entries(node.name))))
                parts.append(self._written("".join(said), node))
            elif not self._can_say(node):
                raise Untold
            elif node.agreement:
                parts.append(self._agreement(node))
            elif node.name in _PRONOUNS:
                parts.append(self._written(self._value(node), node))
            else:
                key = self._known(node) or node.key
                self.told |= {key, *self.inside.get(node.name, ())}
                parts.append(self._written(self._side(key), node))
        return parts

    def _chosen(self, sequences: Iterable[Sequence]) -> Sequence:
        """A random one of the sequences that a fused caption can state. Prefers sequences that state a new fact."""
        options = [option for option in sequences if self._fits(option)]
        new = [o for o in options if self._fits(o, new=True) and any(isinstance(node, Slot) for node in o)]
        if not options:
            raise Untold
        return self.rng.choice(new or options)

    def _fits(self, sequence: Sequence, new: bool = False) -> bool:
        """Whether a fused caption can state the facts of all slots outside optional parts (in square brackets).

        With `new`, also returns False if the fused caption has already stated one of these facts.
        """
        for node in sequence:
            if isinstance(node, Slot) and not (node.is_macro or self._can_say(node, new)):
                return False
            if isinstance(node, Choice) and not any(self._fits(option) for option in node.options):
                return False
        return True

    def _can_say(self, node: Slot, new: bool = False) -> bool:
        if node.agreement:
            return node.name in self.values
        if node.is_generic and node.root in _NAMED_BY and node.name in self.values and self._says_itself(node.name):
            return False
        key = self._known(node)
        repeated = key in self.told and (new or node.root not in _REPEATED)
        return node.name in _PRONOUNS or (key is not None and not repeated)

    def _says_itself(self, name: str) -> bool:
        """Whether "<specific> is a <generic>" would repeat a word ("a tea cup is a cup") or mix singular and plural."""
        specific, _, generic = self.values[name].partition("=")
        words = {word.rstrip("s") for word in specific.lower().replace("-", " ").split()}
        said = {word.rstrip("s") for word in (generic or specific).lower().split()}
        return name in self.drawn and (bool(words & said) or is_plural(specific) != is_plural(generic))

    def _known(self, node: Slot) -> str | None:
        """The key of the form (specific or generic) that a fused caption may use for the slot, or None.

        The slot `hue` stands for the colour that the raw or the synthetic caption states.
        """
        if node.name == "hue":
            return next((key for key in ("colour", "colour.g") if key in self.drawn), None)
        if node.key in self.drawn:
            return node.key
        if node.is_generic and (node.name in self.drawn or (node.root == "thing" and node.name in self.values)):
            return node.key
        return f"{node.key}.g" if f"{node.key}.g" in self.drawn else None
