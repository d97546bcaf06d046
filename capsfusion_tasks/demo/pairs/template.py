"""Parses caption templates: ``{slot}``, ``<one|other>``, ``[optional]``. ``~``: a leading or trailing space."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from capsfusion_tasks.demo.pairs.english import AGREEMENT


@dataclass(frozen=True)
class Slot:
    """A fact of the scene, and how to write it (`modifiers`).

    `root`: `name` without its number ("tens" for "tens2"). The root names a word list or a generator.
    """

    name: str
    modifiers: tuple[str, ...]

    @functools.cached_property
    def root(self) -> str:
        return self.name.rstrip("0123456789")

    @functools.cached_property
    def is_macro(self) -> bool:
        """Whether the slot stands for a random template and not for a fact."""
        return self.name.startswith("_")

    @functools.cached_property
    def is_generic(self) -> bool:
        """Whether the slot stands for the generic form of its fact, such as "couch" for "sofa"."""
        return self.modifiers[:1] in (("g",), ("ga",))

    @functools.cached_property
    def key(self) -> str:
        return f"{self.name}.g" if self.is_generic else self.name

    @functools.cached_property
    def agreement(self) -> str:
        """The modifier that writes a verb, pronoun or article that agrees with the slot, instead of the slot's text."""
        return next((modifier for modifier in self.modifiers if modifier in AGREEMENT), "")


@dataclass(frozen=True)
class Choice:
    """A choice between several sequences of texts and slots."""

    options: tuple[Sequence, ...]


@dataclass(frozen=True)
class Optional:
    """A sequence that raw and synthetic captions omit at random.

    A fused caption contains the sequence if the raw or the synthetic caption states its facts, and the fused caption
    has not stated these facts yet.
    """

    sequence: Sequence


Node = str | Slot | Choice | Optional
Sequence = tuple[Node, ...]

_MARK = re.compile(r"\{[^{}]*\}|[<>|\[\]]|[^<>|\[\]{}]+")
_PAIRS = (("<", ">"), ("[", "]"))


@functools.cache
def parse(template: str) -> Sequence:
    """Parse a template. Raises ValueError for brackets that do not match."""
    marks = _MARK.findall(template)
    sequence, end = _sequence(marks, 0)
    if (
        "".join(marks) != template
        or end != len(marks)
        or any(template.count(a) != template.count(b) for a, b in _PAIRS)
    ):
        raise ValueError(f"brackets that do not match in the template {template!r}")
    return sequence


def _sequence(marks: list[str], place: int, inside: str = "") -> tuple[Sequence, int]:
    """Parse `marks` from index `place` to a closing bracket, a bar (if `inside` is "<") or the end.

    Returns the nodes and the index where they end.
    """
    nodes: list[Node] = []
    while place < len(marks) and marks[place] not in (">", "]") and not (marks[place] == "|" and inside == "<"):
        mark = marks[place]
        place += 1
        if mark == "[":
            inner, place = _sequence(marks, place, mark)
            nodes.append(Optional(inner))
            place += 1
        elif mark == "<":
            options, bar = [], True
            while bar:
                inner, place = _sequence(marks, place, mark)
                options.append(inner)
                bar = marks[place : place + 1] == ["|"]
                place += 1
            nodes.append(Choice(tuple(options)))
        elif mark.startswith("{"):
            name, *modifiers = mark[1:-1].split(".")
            nodes.append(Slot(name, tuple(modifiers)))
        else:
            nodes.append(mark.replace("~", " "))
    return tuple(nodes), place
