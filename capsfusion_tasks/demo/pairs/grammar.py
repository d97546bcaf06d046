"""Make a caption pair with its fused caption: put title, details and scene into a frame, then add web noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from capsfusion_tasks.demo.pairs import lexicon
from capsfusion_tasks.demo.pairs.frames import FRAMES, SENTENCE_FRAMES, TITLE_FRAMES
from capsfusion_tasks.demo.pairs.generic import make_generic
from capsfusion_tasks.demo.pairs.names import SPLITS, capital
from capsfusion_tasks.demo.pairs.noise import add_noise
from capsfusion_tasks.demo.pairs.scene import Scene, make_scene
from capsfusion_tasks.demo.pairs.titles import Detail, make_details, make_title
from capsfusion_tasks.validation.rules import reasons
from capsfusion_tasks.validation.scores import Fused

GENERIC_SHARE = 0.42
# The fused caption must fit into 80 tokens.
MAX_FUSED_CHARACTERS = 250
MAX_RAW_WORDS = 48


@dataclass(frozen=True)
class MadePair:
    """A raw, a synthetic and a fused caption; ``entities`` are the strings of ``raw`` that ``fused`` keeps."""

    raw: str
    synthetic: str
    fused: str
    entities: tuple[str, ...]
    domain: str


def make_pair(rng: random.Random, split: str = "train") -> MadePair:
    """One pair, the same for the same state of `rng`; names come from the name space of `split` alone.

    Raises ValueError for a split other than "train", "heldout" and "sample".
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    while True:
        pair = _generic_pair(rng, split) if rng.random() < GENERIC_SHARE else _domain_pair(rng, split)
        if pair is None or len(pair.fused) > MAX_FUSED_CHARACTERS or len(pair.raw.split()) > MAX_RAW_WORDS:
            continue
        # Skip pairs whose fused caption validation rejects: a model would learn from it.
        if not reasons(Fused(pair.raw, pair.synthetic, pair.fused, "stop")):
            return pair


def _case(rng: random.Random) -> Callable[[str], str] | None:
    """Sometimes put the whole raw caption into upper or lower case. The fused caption then has names in that case."""
    kind = rng.random()
    return str.upper if kind < 0.05 else str.lower if kind < 0.11 else None


def _says(scene: Scene) -> str:
    return "both" if scene.props and scene.pose else "props" if scene.props else "pose" if scene.pose else "none"


def _the(title: str) -> str:
    """ "the" before a title, unless it starts with a word or mark that does without."""
    first = title.split(" ", 1)[0].lower()
    return (
        title if first in ("the", "a", "my", "our", "how", "why", "what", "an") or title[0] in "\"'" else f"the {title}"
    )


def _weave(details: list[Detail]) -> str:
    """Details as they follow the title: each with a leading space, from the third on with a comma."""
    return "".join((", " if place > 1 else " ") + detail.fused for place, detail in enumerate(details))


def _recased(detail: Detail, case: Callable[[str], str]) -> Detail:
    fused, front = detail.fused, detail.front
    for entity in detail.entities:
        fused, front = fused.replace(entity, case(entity)), front.replace(entity, case(entity))
    return Detail(case(detail.raw), fused, front, tuple(map(case, detail.entities)))


def _domain_pair(rng: random.Random, split: str) -> MadePair | None:
    name = rng.choice(lexicon.DOMAIN_NAMES)
    domain = lexicon.DOMAINS[name]
    title = make_title(rng, domain, split)
    details = make_details(rng, domain.kind, split)
    case = _case(rng)
    title_raw, title_fused, entities = title.raw, title.fused, title.entities
    if case is not None and "&" not in title_raw:
        details = [_recased(detail, case) for detail in details]
        title_raw, title_fused, entities = case(title_raw), case(title_fused), tuple(map(case, entities))
    raw = title_raw + "".join(detail.raw for detail in details)
    entities += tuple(entity for detail in details for entity in detail.entities)

    quoted = entities[0] if name in ("media", "decor") and rng.random() < 0.3 else ""
    noun = title.noun.lower() if title.noun and not title.noun.endswith("s") and rng.random() < 0.45 else ""
    scene = make_scene(rng, domain, split, quoted, noun)
    frame = rng.choice(FRAMES[domain.kind][_says(scene)])
    fronted = ""
    if details and rng.random() < 0.3:
        first = next((detail for detail in details if detail.front), None)
        if first is not None:
            details.remove(first)
            fronted = first.front + ", "
    title_inside = (
        title_fused if domain.kind in ("person", "artwork", "media") and title_fused[0].isupper() else _the(title_fused)
    )
    return _finish(rng, raw, frame, fronted, title_inside, _weave(details), scene, entities, name, split)


def _finish(
    rng: random.Random,
    raw: str,
    frame: str,
    fronted: str,
    title: str,
    details: str,
    scene: Scene,
    entities: tuple[str, ...],
    domain: str,
    split: str,
) -> MadePair | None:
    body = frame.format(
        T=title if fronted else capital(title),
        t=title,
        D=details,
        s=scene.new_subject,
        S=scene.subject if fronted else capital(scene.subject),
        be=scene.be,
        have="have" if scene.be == "are" else "has",
        pose=scene.pose,
        props=scene.props,
        x=title,
    )
    if fronted and body.startswith(("The ", "This ", "A view", "At ")):
        body = body[0].lower() + body[1:]
    fused = (fronted + body).replace(",,", ",").replace(",.", ".").replace("..", ".")
    fused = fused[0].upper() + fused[1:]
    noisy = add_noise(rng, raw, split)
    kept = tuple(entity for entity in dict.fromkeys(entities) if entity in noisy and entity in fused)
    return MadePair(noisy, scene.text, fused, kept, domain)


def _generic_pair(rng: random.Random, split: str) -> MadePair | None:
    made = make_generic(rng, split)
    case = _case(rng)
    raw, kept, entities = made.raw, made.kept, made.entities
    if case is not None and "&" not in raw:
        raw, kept, entities = case(raw), case(kept), tuple(map(case, entities))
    kept = kept.rstrip(".,;:!?-| ")
    quoted = rng.choice(entities) if entities and rng.random() < 0.12 else ""
    scene = make_scene(rng, lexicon.DOMAINS[rng.choice(lexicon.DOMAIN_NAMES)], split, quoted=quoted)
    sentence = made.sentence and kept[0].isupper()
    frame = rng.choice((SENTENCE_FRAMES if sentence else TITLE_FRAMES)[_says(scene)])
    if frame.startswith("The {x}") and _the(kept) == kept:
        frame = frame[4:]
        if not kept[0].isupper():
            frame = "The image of {x} shows {s}."
    return _finish(rng, raw, frame, "", kept, "", scene, entities, "generic", split)
