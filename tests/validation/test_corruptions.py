"""Captions with one fault each: `python -m benchmarks.corruptions` prints the figures."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.corruptions import CORRUPTIONS, corrupted, good_pairs, missed
from benchmarks.workload import read_pairs
from capsfusion_tasks.validation.rules import RULES

ROWS = 300


def test_every_reason_has_a_corruption_but_failed() -> None:
    assert {rule.__name__ for rule in RULES} - set(CORRUPTIONS.values()) == {"failed"}


@pytest.mark.parametrize("seed", [1, 2])
def test_of_each_corruption_99_percent_are_caught_for_the_right_reason(
    published_pairs: list[dict[str, Any]], seed: int
) -> None:
    good = good_pairs([(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in published_pairs])
    for name, reason, rows in corrupted(good, ROWS, seed):
        assert rows.num_rows == ROWS, name
        assert missed(rows, reason).num_rows <= ROWS * 0.01, name


def test_of_made_pairs_too() -> None:
    good = good_pairs(read_pairs(None, 1000, "made"))
    assert len(good) > 950
    for name, reason, rows in corrupted(good, 100):
        assert missed(rows, reason).num_rows <= 1, name
