"""Made-up pairs are reproducible, share no names between splits, and have fused captions that validation accepts."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capsfusion_tasks.demo.pairs import SPLITS, MadePair, make_pair
from capsfusion_tasks.demo.pairs.english import is_plural
from capsfusion_tasks.demo.pairs.grammar import repeats
from capsfusion_tasks.demo.pairs.names import GENERATORS, code, lower_word, split_of
from capsfusion_tasks.demo.pairs.scene import Scene, Untold
from capsfusion_tasks.demo.pairs.template import parse
from capsfusion_tasks.demo.pairs.words import COMMON, DOMAINS, KIND_OF, KINDS
from capsfusion_tasks.validation.rules import reasons
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import ngrams, words

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def made(split: str) -> list[MadePair]:
    rng = random.Random(1)
    return [make_pair(rng, split) for _ in range(1200)]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_pairs_in_processes_with_different_hash_seeds() -> None:
    script = (
        "import hashlib, random; from capsfusion_tasks.demo.pairs import make_pair; rng = random.Random(3); "
        "pairs = [make_pair(rng, split) for split in ('train', 'heldout', 'sample') for _ in range(80)]; "
        "print(hashlib.sha256(repr(pairs).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4242")
    }
    assert len(digests) == 1


def test_every_made_name_belongs_to_the_split_it_was_made_for() -> None:
    rng = random.Random(5)
    for split in SPLITS:
        for _ in range(300):
            assert split_of(lower_word(rng, split)) == split
            assert split_of(code(rng, split)) == split


def test_a_names_split_does_not_depend_on_its_case() -> None:
    assert all(split_of(name) == split_of(name.upper()) == split_of(name.title()) for name in ("brenlow", "gx-400"))


def test_model_numbers_of_held_out_pairs_never_stand_in_training_pairs() -> None:
    def model_numbers(split: str) -> set[str]:
        text = " ".join(pair.raw for pair in made(split))
        return set(re.findall(r"\b[A-Z]{3}-[0-9]{3}-[A-Z]\b", text))

    heldout, train = model_numbers("heldout"), model_numbers("train")
    assert heldout
    assert train
    assert not heldout & train


@pytest.mark.parametrize("split", SPLITS)
def test_targets_keep_every_entity_of_the_raw_caption(split: str) -> None:
    pairs = made(split)
    assert all(entity in pair.raw and entity in pair.fused for pair in pairs for entity in pair.entities)
    assert sum(bool(pair.entities) for pair in pairs) > 900


@pytest.mark.parametrize("split", SPLITS)
def test_validation_accepts_every_target(split: str) -> None:
    refused = {
        reason for pair in made(split) for reason in reasons(Fused(pair.raw, pair.synthetic, pair.fused, "stop"))
    }
    assert refused == set()


def test_targets_leave_out_what_a_shop_adds() -> None:
    added = re.compile(r"SKU\b|#[a-z]|www\.|\.com|stock|Free Shipping|\.jpg|&quot;|\| \w+ Shop", re.IGNORECASE)
    pairs = made("train")
    assert sum(bool(added.search(pair.raw)) for pair in pairs) > 100
    kept = [pair.fused for pair in pairs if added.search(pair.fused)]
    assert not kept, kept[:5]


def test_captions_have_the_lengths_of_web_captions() -> None:
    pairs = made("train")
    lengths = sorted(len(pair.raw.split()) for pair in pairs)
    assert 8 <= lengths[600] <= 12
    assert lengths[1164] >= 30
    assert max(len(pair.fused) for pair in pairs) <= 280


def test_some_sources_share_three_words() -> None:
    pairs = made("train")
    shared = [set(ngrams(words(pair.raw), 3)) & set(ngrams(words(pair.synthetic), 3)) for pair in pairs]
    assert 120 <= sum(map(bool, shared)) <= 300


def test_the_three_captions_tell_one_scene() -> None:
    """If the raw caption says "sofa" and the synthetic one "couch", the fused caption says "sofa"."""
    things = {
        "sofa": "couch", "loveseat": "couch", "armchair": "chair", "office chair": "chair", "rocking chair": "chair",
        "wall mirror": "mirror", "coffee table": "table", "bookcase": "shelf", "sideboard": "cabinet",
    }  # fmt: skip
    pairs = [pair for split in SPLITS for pair in made(split) if pair.domain == "furniture"]
    told = [(pair, thing) for pair in pairs for thing in things if re.search(rf"\b{thing}\b", pair.raw, re.IGNORECASE)]
    assert len(told) > 5
    for pair, thing in told:
        assert re.search(rf"\b(?:{thing}|{things[thing]})(?:s|es)?\b", pair.synthetic, re.IGNORECASE), pair
        assert re.search(rf"\b{thing}\b", pair.fused, re.IGNORECASE), pair


def test_few_targets_are_joined_with_a_fixed_phrase() -> None:
    phrase = re.compile(r"(?:the|this) image\b|can be seen|(?:is|are) (?:shown|seen)\b", re.IGNORECASE)
    assert sum(bool(phrase.search(pair.fused)) for pair in made("train")) < 120


def test_a_fused_caption_says_nothing_twice() -> None:
    """No "The bar chart is a chart.", no "a table on a table", and no three words twice."""
    pairs = made("train")
    for pair in pairs:
        trigrams = ngrams(words(pair.fused), 3)
        assert len(trigrams) == len(set(trigrams)), pair
        assert not re.search(r"\b(\w{3,}) (?:is|are) (?:an? )?(?:\w+ )?\1\b", pair.fused), pair
        assert not repeats(pair.synthetic), pair
        assert pair.raw.count(": ") < 2, pair


@pytest.mark.parametrize(
    "wrong",
    [
        r"\b[Tt]his [^.,]*?\b(?:are|have|come|feature)\b(?! with)",
        r"\b[Tt]hese [^.,]*?\b(?:is|has|comes|features)\b",
        r"\b[Tt]here is (?:two|three|several|people)\b",
        r"\b[Tt]here are an?\b(?! .* and )",
        r"\bThey (?:is|has|comes|measures)\b",
        r"\bIt (?:are|have|come|measure)\b",
        r"(?:makes|sells|offers|presents) [^.]* and (?:is|are|has|have) (?:in|on|next|held|a|an)\b",
    ],
)
def test_verbs_agree_with_what_they_tell(wrong: str) -> None:
    told = [pair.fused for pair in made("train") if re.search(wrong, pair.fused)]
    assert not told, told[:3]


@pytest.mark.parametrize(
    ("phrase", "several"),
    [
        ("two-story house", False),
        ("two dogs on a bed", True),
        ("the names of towns", True),
        ("sofas (model GX-400)", True),
        ("glass by Tarn & Sons", False),
        ("a man and a woman", True),
        ("canvas", False),
        ("ramen", False),
    ],
)
def test_a_plural_is_told_by_its_head(phrase: str, several: bool) -> None:
    assert is_plural(phrase) is several


def test_the_generic_word_is_told_beside_another_word_of_its_number_only() -> None:
    def tells(thing: str) -> bool:
        scene = Scene(random.Random(1), "train", "furniture")
        scene.values["thing"] = thing
        scene.drawn.add("thing")
        try:
            return bool(scene.tell("the {thing} is {thing.ga}"))
        except Untold:
            return False

    assert tells("sofa=couch")
    assert not tells("office chair=chair")
    assert not tells("kite=kite")
    assert not tells("socket set=tools")


def test_a_part_agrees_with_the_thing() -> None:
    scene = Scene(random.Random(1), "train", "shoes")
    scene.values |= {"thing": "loafers=shoes", "part": "a bow on it"}
    assert scene.draw("{thing} with {part}") == "loafers with a bow on them"


def test_a_fused_caption_says_no_more_than_its_sources() -> None:
    scene = Scene(random.Random(1), "train", "furniture")
    scene.draw("{brand} {thing.T}")
    assert (
        scene.tell("{thing.the} by {brand}[ in {colour}]")
        == f"the {scene.values['thing'].split('=')[0]} by {scene.values['brand']}"
    )
    with pytest.raises(Untold):
        scene.tell("{thing.the} by {brand} in {colour}")
    with pytest.raises(Untold):
        scene.tell("{thing.the}")  # the template leaves the brand out


@pytest.mark.parametrize("template", ["{slot", "<a|b", "a]", "[a"])
def test_a_template_with_wrong_brackets_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="in the template"):
        parse(template)


def test_every_template_parses_and_every_list_exists() -> None:
    """A slot of a template has a generator, or a word list in its kind or in all domains of this kind that use it."""
    known = {*GENERATORS, "person", "credit", "hue"}
    for kind, tables in KINDS.items():
        domains = [DOMAINS[name][0] for name in DOMAINS if KIND_OF[name] == kind]
        for template in (template for name in ("raw", "synthetic", "fused", "extra") for template in tables[name]):
            parse(template)
            for slot in re.findall(r"\{(\w+?)\d*[.}]", template):
                in_domains = all(slot in domain or slot in domain.get("skip", ()) for domain in domains)
                assert slot in known or slot in tables or slot in COMMON or in_domains, (kind, slot)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        make_pair(random.Random(1), "test")
