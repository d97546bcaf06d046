from __future__ import annotations

from typing import Any

import pytest

from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.validation.scores import Fused, scores
from capsfusion_tasks.validation.text import contains, repeated_share, words


def test_scores_are_shares_of_distinct_words() -> None:
    fused = Fused("red red Mustang 1967", "a car in a street", "The red car, a Mustang, parks in a street.")
    assert scores(fused) == {
        "raw_recall": pytest.approx(2 / 3),
        "synthetic_recall": 1.0,
        "fact_recall": 0.5,  # Mustang, not 1967
        "novelty": pytest.approx(2 / 8),  # the, parks
        "invention": 0.0,
        "repetition": 0.0,
        "source_overlap": 0.0,
        "caption_words": 9,
    }


def test_scores_have_the_names_of_the_schema() -> None:
    assert list(scores(Fused("a", "b", "c"))) == SCORES.names


def test_a_text_without_words_has_no_recall() -> None:
    assert scores(Fused("?!", "", "🎉")) == {
        "raw_recall": None,
        "synthetic_recall": None,
        "fact_recall": None,
        "novelty": None,
        "invention": None,
        "repetition": 0.0,
        "source_overlap": None,
        "caption_words": 0,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t  STOP—now!", ["don't", "stop", "now"]),
        ("ＦＵＬＬ width, Straße", ["full", "width", "strasse"]),
        ("snake_case 3.5mm #tag", ["snake", "case", "3", "5mm", "tag"]),
        ("שלום, עולם", ["שלום", "עולם"]),
        (" \x00 … ", []),
    ],
)
def test_words_ignore_case_width_and_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_part_is_contained_by_whole_words_only() -> None:
    assert contains(words("the red car park"), words("Red Car!"))
    assert not contains(words("the red carpark"), words("red car"))
    assert not contains(words("red, a car"), words("red car"))


def test_repeated_share_counts_trigrams_said_before() -> None:
    assert repeated_share(words("a b c a b c")) == pytest.approx(1 / 4)
    assert repeated_share(words("a b")) == 0.0


def test_recall_of_the_published_captions_is_as_measured(published_pairs: list[dict[str, Any]]) -> None:
    rows = [scores(Fused(row["laion_2b"], row["laion_coco"], row["capsfusion_official"])) for row in published_pairs]

    def quantile(name: str, share: float) -> float:
        values = sorted(value for row in rows if (value := row[name]) is not None)
        return round(values[int(share * len(values))], 2)

    assert (quantile("raw_recall", 0.5), quantile("raw_recall", 0.05)) == (1.0, 0.5)
    assert (quantile("synthetic_recall", 0.5), quantile("synthetic_recall", 0.05)) == (0.83, 0.29)
    assert (quantile("novelty", 0.5), quantile("novelty", 0.95)) == (0.31, 0.62)
    assert (quantile("source_overlap", 0.5), quantile("source_overlap", 0.95)) == (0.08, 0.4)
