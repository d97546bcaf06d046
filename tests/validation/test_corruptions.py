"""Plants one fault into each of many captions. Validation must reject these captions for the right reason."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.corruptions import CORRUPTIONS, Pair, corrupted, good_pairs, missed
from benchmarks.workload import read_pairs
from capsfusion_tasks.validation.rules import RULES

pytestmark = pytest.mark.slow

ROWS = 200
# For most kinds of faults, 99% of the captions must be caught. The kinds below have lower limits, because words alone
# cannot distinguish some of their captions from good ones. docs/validation-quality.md describes these captions. A limit
# is at least two standard errors below the mean of eight seeds.
LEAST = {
    "lost_facts": 0.97,
    "changed_year": 0.97,
    "swapped_name": 0.80,
    "other_colour": 0.88,
    "other_count": 0.92,
    "price": 0.98,
    "paraphrased_leak": 0.90,
    "said_again": 0.97,
    "other_synthetic": 0.85,
    "denial": 0.88,
}


def test_every_reason_has_a_corruption_but_failed() -> None:
    assert {rule.__name__ for rule in RULES} - {code for codes in CORRUPTIONS.values() for code in codes} == {"failed"}


@pytest.fixture(scope="module")
def good(published_pairs: list[dict[str, Any]]) -> list[Pair]:
    """The published pairs whose captions pass validation, which takes seconds."""
    return good_pairs([(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in published_pairs])


@pytest.mark.parametrize("seed", [1, 2])
def test_of_each_corruption_99_percent_are_caught_for_the_right_reason(good: list[Pair], seed: int) -> None:
    for planted in corrupted(good, ROWS, seed):
        assert planted.rows.num_rows == ROWS, planted.kind
        caught = 1 - missed(planted).num_rows / ROWS
        assert caught >= LEAST.get(planted.kind, 0.99), (planted.kind, caught)


def test_of_made_pairs_too() -> None:
    # The limits are lower, because captions of made-up pairs have fewer synthetic words, often several numbers, and
    # similar names.
    least = LEAST | {"other_synthetic": 0.7, "other_count": 0.88, "swapped_name": 0.75, "said_again": 0.95}
    good = good_pairs(read_pairs(None, 1000, "made"))
    assert len(good) > 950
    for planted in corrupted(good, 100):
        rows = planted.rows.num_rows
        assert missed(planted).num_rows <= 1 + rows * (1 - least.get(planted.kind, 1)), planted.kind
