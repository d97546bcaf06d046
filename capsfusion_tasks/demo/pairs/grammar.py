"""Make a caption pair and its fused caption: three descriptions of one scene. The raw caption also has web noise."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from capsfusion_tasks.demo.pairs.english import capital, repaired
from capsfusion_tasks.demo.pairs.names import GENERATORS, SPLITS
from capsfusion_tasks.demo.pairs.noise import add_noise
from capsfusion_tasks.demo.pairs.scene import Scene, Untold
from capsfusion_tasks.demo.pairs.words import KIND_OF
from capsfusion_tasks.validation.rules import reasons
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import FUNCTION_WORDS, ngrams, sentences, words

MAX_FUSED_CHARACTERS = 280  # so that a fused caption fits into 80 tokens
MAX_RAW_WORDS = 80
MORE_SHARE = 0.08  # share of raw captions that get additional sentences
SEVERAL_KEPT = 0.08  # share to keep of the pairs whose fused caption has more sentences than the raw caption
# Kind in kinds.ini → its weight (relative frequency).
KIND_SHARES = {
    "product": 34, "person": 8, "event": 8, "place": 10, "media": 8, "art": 6, "food": 6, "animal": 7, "graphic": 9,
    "stock": 8, "home": 6, "howto": 3, "headline": 4,
}  # fmt: skip
_SOURCES = {"product": "shop", "home": "home"}  # kind → argument `source` of add_noise; "web" for all other kinds
_DOMAINS_OF = {kind: [name for name in KIND_OF if KIND_OF[name] == kind] for kind in KIND_SHARES}
TELLINGS = 12  # maximum number of fused-caption templates that are tried for one scene
_LONG_TITLE = 6  # a title with at least this many words is a list of keywords; the fused caption must rewrite it
_WORD = re.compile(r"[^\W\d_]{3,}")
# Slots (placeholders of a template) that stand for names or numbers.
_ENTITIES = frozenset(GENERATORS) - {"word"} | frozenset(("person", "group", "happening", "size", "park", "museum"))
_NAMED = _ENTITIES | frozenset(("owner", "title", "headline"))


@dataclass(frozen=True)
class MadePair:
    """A raw, a synthetic and a fused caption. ``entities``: names and numbers of ``raw`` that ``fused`` keeps."""

    raw: str
    synthetic: str
    fused: str
    entities: tuple[str, ...]
    domain: str


def make_pair(rng: random.Random, split: str = "train") -> MadePair:
    """A random pair. All its made-up names belong to `split`. The same state of `rng` gives the same pair.

    Raises ValueError for a split other than "train", "heldout" and "sample".
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    while True:
        pair = _pair(rng, split, rng.choice(_DOMAINS_OF[kind]))
        if pair is None or len(pair.fused) > MAX_FUSED_CHARACTERS or len(pair.raw.split()) > MAX_RAW_WORDS:
            continue
        trigrams = ngrams(words(pair.fused), 3)
        if pair.raw.count(": ") > 1 or len(trigrams) > len(set(trigrams)):
            continue
        if len(sentences(pair.fused)) > len(sentences(pair.raw)) and rng.random() >= SEVERAL_KEPT:
            continue
        # Skip pairs whose fused caption fails validation, so that no model learns from them.
        if not reasons(Fused(pair.raw, pair.synthetic, pair.fused, "stop")):
            return pair


def _pair(rng: random.Random, split: str, domain: str) -> MadePair | None:
    scene = Scene(rng, split, domain)
    try:
        raw = scene.draw(rng.choice(scene.entries("raw")))
        synthetic = scene.draw(rng.choice(scene.entries("synthetic")))
    except Untold:
        return None
    if repeats(synthetic):
        return None
    # Skip scenes with both slots, because their caption may say that a town is in two countries.
    fused = None if {"place", "country"} <= scene.drawn else _fused(scene)
    if fused is None:
        return None
    raw, fused = _with_more(scene, raw, fused)
    named = [value for name, value in scene.values.items() if name in scene.drawn and _root(name) in _NAMED]
    entities = [value for name, value in scene.values.items() if _root(name) in _ENTITIES]
    case = _case(rng) if len(raw) < 90 else None
    if case is not None:
        raw, entities = case(raw), [case(entity) for entity in entities]
        for value in sorted(named, key=len, reverse=True):
            fused = fused.replace(value, case(value))
    raw = add_noise(rng, repaired(raw), split, _SOURCES.get(KIND_OF[domain], "web"))
    fused = capital(repaired(fused))
    kept = tuple(entity for entity in dict.fromkeys(entities) if entity in raw and entity in fused)
    return MadePair(raw, _written(rng, synthetic), fused, kept, domain)


def repeats(text: str) -> bool:
    """Whether a content word occurs twice, as in "The wool hat is a hat." or "a table on a table"."""
    found = [word.rstrip("s") for word in _WORD.findall(text.lower()) if word not in FUNCTION_WORDS]
    return len(found) > len(set(found))


def _root(slot: str) -> str:
    return slot.rstrip("0123456789")


def _with_more(scene: Scene, raw: str, fused: str) -> tuple[str, str]:
    """Sometimes add sentences to the raw caption.

    The fused caption gets the first of these sentences. A short fused caption also gets the second.
    """
    if scene.rng.random() > MORE_SHARE:
        return raw, fused
    extra = scene.entries("extra")
    count = min(len(extra), scene.rng.choice((1, 1, 2, 2, 3, 5)))
    for number, template in enumerate(scene.rng.sample(extra, count)):
        said = scene.draw(template)
        raw = f"{raw.rstrip('.')}. {capital(said)}"
        if number == 0 or (number == 1 and len(fused) < 150):
            fused = f"{fused.rstrip('.')}. {capital(said)}."
    return raw, fused


def _fused(scene: Scene) -> str | None:
    templates = scene.entries("fused")
    title = scene.values.get("title", "")
    for template in scene.rng.sample(templates, min(TELLINGS, len(templates))):
        try:
            fused = scene.tell(template)
        except Untold:
            continue
        if not repeats(fused) and fused.count(". ") < 3 and (len(title.split()) < _LONG_TITLE or title not in fused):
            return fused
    return None


def _case(rng: random.Random) -> Callable[[str], str] | None:
    """Sometimes return a function that changes the case of the raw caption and of the names in the fused caption."""
    kind = rng.random()
    return str.upper if kind < 0.01 else str.lower if kind < 0.04 else None


def _written(rng: random.Random, synthetic: str) -> str:
    """The synthetic caption, usually with a capital letter and a full stop, as in the output of captioning models."""
    synthetic = repaired(synthetic)
    if rng.random() < 0.8:
        synthetic = capital(synthetic)
    if rng.random() < 0.8 and not synthetic.endswith("."):
        synthetic += "."
    return synthetic
