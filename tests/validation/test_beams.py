"""Validation takes the best caption of a beam search that the rules accept, and records the number of its beam."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.schemas import CAPTION, OTHER_BEAMS
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.beams import best_that_pass
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.validate import validate_table

RAW, SYNTHETIC = "red Mustang 1967", "A car stands in a street."
GOOD = "The red Mustang 1967 is a car that stands in a street."
ALSO_GOOD = "A red Mustang 1967, a car, stands in a street."
CUT = "The red Mustang 1967 is a car that"
SHORT = "Red car."


def search(best: str, *others: str, raw: str = RAW, finish_reason: str = "stop") -> dict[str, Any]:
    """A row with the captions of one beam search. A caption's number of tokens is its number of characters."""

    def made(caption: str, reason: str = "stop") -> dict[str, Any]:
        return {"capsfusion": caption, "finish_reason": reason, "caption_tokens": len(caption)}

    row = {"laion_2b": raw, "laion_coco": SYNTHETIC, "prompt_tokens": 9, **made(best, finish_reason)}
    return {**row, "other_beams": [made(caption) for caption in others]}


def table(*rows: dict[str, Any]) -> pa.Table:
    texts = [pa.field(name, pa.string()) for name in ("laion_2b", "laion_coco")]
    return pa.Table.from_pylist(list(rows), pa.schema([*texts, *CAPTION, OTHER_BEAMS]))


@pytest.mark.parametrize(
    ("row", "caption", "beam", "rescued_from", "reasons"),
    [
        (search(GOOD, ALSO_GOOD, CUT), GOOD, 1, None, []),
        (search(CUT, GOOD, ALSO_GOOD), GOOD, 2, ["truncated"], []),
        (search(SHORT, CUT, GOOD), GOOD, 3, ["too_short"], []),
        (search(SHORT, CUT), SHORT, 1, None, ["too_short"]),
        (search(CUT), CUT, 1, None, ["truncated"]),
        (search(GOOD, ALSO_GOOD, finish_reason="length"), ALSO_GOOD, 2, ["truncated"], []),
        (search("", finish_reason="error: laion_2b is empty"), "", 1, None, ["failed"]),
    ],
)
def test_the_best_caption_that_passes_is_taken(
    row: dict[str, Any], caption: str, beam: int, rescued_from: list[str] | None, reasons: list[str]
) -> None:
    # The row stands between rows whose best caption is accepted, so that the test notices if rows get mixed up.
    others = [search(GOOD, raw=f"{RAW} {place}") for place in "ab"]
    judged = best_that_pass(table(others[0], row, others[1]))
    found = judged.slice(1, 1).to_pylist()[0]
    assert (found["capsfusion"], found["beam"], found["rescued_from"]) == (caption, beam, rescued_from)
    assert (found["reasons"], found["other_beams"]) == (reasons, row["other_beams"])
    alone = validate_table(table({**row, "capsfusion": caption, "finish_reason": found["finish_reason"]}))
    scores = [name for name in alone.column_names if name not in ("reasons", "other_beams", "caption_tokens")]
    assert alone.select(scores).equals(judged.slice(1, 1).select(scores)), "flags and scores are of the taken caption"
    assert found["caption_tokens"] == len(caption)
    assert [judged[name].to_pylist()[::2] for name in ("capsfusion", "beam", "laion_2b")] == [
        [GOOD, GOOD],
        [1, 1],
        [f"{RAW} a", f"{RAW} b"],
    ]
    assert Tally().add(judged).rescued == (rescued_from is not None)


def test_a_table_without_rejections_or_rows_is_judged_as_without_beams() -> None:
    for rows in ([], [search(GOOD, CUT), search(ALSO_GOOD, GOOD)]):
        plain = validate_table(table(*rows))
        judged = best_that_pass(table(*rows))
        assert judged.select(plain.column_names).equals(plain)
        assert judged["beam"].to_pylist() == [1] * len(rows)


def test_a_caption_that_many_others_have_rescues_nothing() -> None:
    limit = RuleSettings(same_caption_max=2)
    many = [search(GOOD, raw=f"{RAW} {n}") for n in range(2)]
    rejected = search(CUT, GOOD, raw=f"{RAW} 9")
    assert best_that_pass(table(many[0], rejected), limit)["beam"].to_pylist() == [1, 2]
    assert best_that_pass(table(*many, rejected), limit)["beam"].to_pylist() == [1, 1, 1]

    def loaded(captions: Set[str]) -> Mapping[str, Set[str]]:
        return {caption: {"x", "y"} for caption in captions if caption == GOOD}

    assert best_that_pass(table(rejected), limit, loaded)["reasons"].to_pylist() == [["truncated"]]
