"""Made-up pairs are reproducible, split by name, and have fused captions that validation accepts."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capsfusion_tasks.demo.pairs import SPLITS, MadePair, make_pair
from capsfusion_tasks.demo.pairs.names import code, lower_word, split_of
from capsfusion_tasks.validation.rules import reasons
from capsfusion_tasks.validation.scores import Fused

ROOT = Path(__file__).resolve().parents[2]


def made(count: int, split: str = "train", seed: int = 1) -> list[MadePair]:
    rng = random.Random(seed)
    return [make_pair(rng, split) for _ in range(count)]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_pairs_in_processes_with_different_hash_seeds() -> None:
    script = (
        "import hashlib, random; from capsfusion_tasks.demo.pairs import make_pair; rng = random.Random(3); "
        "pairs = [make_pair(rng, split) for split in ('train', 'heldout', 'sample') for _ in range(300)]; "
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
        text = " ".join(pair.raw for pair in made(1500, split))
        return set(re.findall(r"\b[A-Z]{2,3}-[0-9]{2,4}-[A-Z]{1,2}\b", text))

    heldout, train = model_numbers("heldout"), model_numbers("train")
    assert len(heldout) > 5
    assert not heldout & train


@pytest.mark.parametrize("split", SPLITS)
def test_targets_keep_every_entity_of_the_raw_caption(split: str) -> None:
    pairs = made(1500, split)
    assert all(entity in pair.raw and entity in pair.fused for pair in pairs for entity in pair.entities)
    assert sum(bool(pair.entities) for pair in pairs) > 1200


@pytest.mark.parametrize("split", SPLITS)
def test_validation_accepts_every_target(split: str) -> None:
    refused = {
        reason for pair in made(1500, split) for reason in reasons(Fused(pair.raw, pair.synthetic, pair.fused, "stop"))
    }
    assert refused == set()


def test_targets_leave_out_what_a_shop_adds() -> None:
    added = re.compile(r"SKU|#\w|www\.|\.com|stock|Free Shipping|eBay|\.jpg|&quot;|\| \w+ Shop", re.IGNORECASE)
    pairs = made(3000)
    assert sum(bool(added.search(pair.raw)) for pair in pairs) > 450
    kept = [pair.fused for pair in pairs if added.search(pair.fused)]
    assert len(kept) < 30, kept[:5]  # "stock" is a word too, and "#" may stand in a name


def test_captions_have_the_lengths_of_web_captions() -> None:
    lengths = sorted(len(pair.raw.split()) for pair in made(3000))
    assert 6 <= lengths[1500] <= 12
    assert lengths[2970] >= 30
    assert max(len(pair.fused) for pair in made(3000)) <= 250


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="unknown split 'test'"):
        make_pair(random.Random(1), "test")
