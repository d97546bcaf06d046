"""Compares facets and totals with counts over the captions of all pages."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.schemas import Replay, Unit
from capsfusion_tasks.warehouse import ledger, matches
from capsfusion_tasks.warehouse.conditions import UnclearFilter
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.facets import Count, Facets, facets
from capsfusion_tasks.warehouse.hints import Hint, hint
from capsfusion_tasks.warehouse.load import load_unit
from tests.warehouse.conftest import plan, rows
from tests.warehouse.test_browse import FILTERS, Meets, filled, number, pages  # noqa: F401

BY_ROW = CaptionFilter(words="bicycle")


def found(warehouse: Warehouse, wanted: CaptionFilter, score: str = "novelty") -> Facets:
    with warehouse.engine.connect() as connection:
        return facets(connection, wanted, score)


@pytest.mark.parametrize(("wanted", "meets"), FILTERS)
def test_few_captions_are_counted(filled: Warehouse, wanted: CaptionFilter, meets: Meets) -> None:  # noqa: F811
    shown = [row for page in pages(filled, wanted, 100) for row in page]
    facet = found(filled, wanted)
    assert facet.total == Count(len(shown), True)
    assert facet.exact
    assert {each.value: each.captions for each in facet.flags} == Counter(flag for row in shown for flag in row.flags)
    assert {each.value: each.captions for each in facet.fusions} == Counter(row.fusion_id for row in shown)
    assert [(each.value, each.captions) for each in facet.days] == [
        (day, captions)
        for day, fusion_id in (("2026-11-11", "f2"), ("2026-11-10", "f1"))
        if (captions := sum(row.fusion_id == fusion_id for row in shown))
    ]
    counts = Counter(min(int(number(row) / 20 * 20 + 1e-9), 19) for row in shown)
    assert [each.captions for each in facet.bins] == [counts[at] for at in range(20)]


def test_other_verdicts_and_reasons_are_offered_beside_the_chosen_one(filled: Warehouse) -> None:  # noqa: F811
    facet = found(filled, CaptionFilter(verdict="accepted"))
    assert facet.verdicts == {"accepted": Count(21, True), "rejected": Count(11, True)}
    assert {each.value: each.captions for each in facet.reasons} == {"truncated": 11, "copy": 5}


@pytest.mark.parametrize("wanted", [CaptionFilter(), CaptionFilter(verdict="rejected"), BY_ROW])
def test_many_captions_are_estimated_and_the_answer_says_so(
    filled: Warehouse,  # noqa: F811
    wanted: CaptionFilter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = found(filled, wanted)
    monkeypatch.setattr(matches, "MOST", 5)
    monkeypatch.setattr(matches, "_ENOUGH", 1)
    facet = found(filled, wanted)
    assert not facet.exact
    assert not facet.total.exact
    # Figures are estimated from a sample. Here the sample has all rows, so the estimates must be exact.
    assert facet.total.captions == exact.total.captions
    assert (facet.reasons, facet.flags, facet.days, facet.bins) == (exact.reasons, exact.flags, exact.days, exact.bins)


def test_matches_too_rare_for_a_sample_are_counted_up_to_a_limit(
    filled: Warehouse,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matches, "MOST", 5)
    monkeypatch.setattr(matches, "_SAMPLE_OF_WORDS", 2)
    facet = found(filled, CaptionFilter(words="bicycle", verdict="accepted"))
    assert not facet.total.exact
    assert facet.total.captions is not None
    assert facet.total.captions > 5
    assert facet.days == []
    assert found(filled, CaptionFilter(words="number 7", verdict="accepted")).total == Count(2, True)


def test_a_count_that_takes_too_long_is_given_up(filled: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(matches, "MOST", 5)
    monkeypatch.setattr(matches, "_SAMPLE_OF_WORDS", 0)
    slow = matches._counts
    monkeypatch.setattr(matches, "_counts", lambda asked: slow(asked.where(text("pg_sleep(0.5) is not null"))))
    monkeypatch.setattr(matches, "MILLISECONDS", 20)
    with filled.engine.connect() as connection:
        connection.execute(text("set statement_timeout = '10s'"))
        monkeypatch.setattr(matches, "_sampled", lambda *_: (matches.Matches("sample", 0), 0))
        facet = facets(connection, CaptionFilter(words="bicycle"), "novelty")
        assert connection.scalar(text("show statement_timeout")) == "10s"
    assert facet.total == Count(None, False)


def test_captions_that_a_replay_has_moved_are_not_counted_as_rejected(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 4))
    load_unit(warehouse, "u1", rows(1, 2, 3, 4, rejected={1: ["truncated"], 2: ["copy"], 3: ["copy"]}))
    with warehouse.engine.begin() as connection:
        unit = Unit(unit_id="r1", fusion_id="f1", rows=2, tokens=200)
        ledger.register_units(connection, [unit], Replay(name="manual__1", fusion_id="f1"), "manual__1")
    load_unit(warehouse, "r1", rows(1, 2, rejected={2: ["copy"]}), "manual__1")
    facet = found(warehouse, CaptionFilter())
    assert facet.verdicts == {"accepted": Count(2, True), "rejected": Count(2, True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matches, "MOST", 0)
        assert found(warehouse, CaptionFilter()).verdicts == {"accepted": Count(2, False), "rejected": Count(2, False)}


def test_a_part_of_too_many_names_is_refused(warehouse: Warehouse) -> None:
    units = [(f"u{number}", 1) for number in range(201)]
    for unit in units:
        plan(warehouse, unit, dag_run_id=f"manual__{datetime(2026, 1, 1, tzinfo=UTC)} {unit[0]}")
    with pytest.raises(UnclearFilter, match="more than 200 runs have 'manual' in their name"):
        found(warehouse, CaptionFilter(dag_run_id="manual"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("the", Hint(["the"], {})),
        ("the elephant", Hint(["the"], {})),
        ("bicy", Hint([], {"bicy": ["bicycle"]})),
        ("bi", None),
        ("elephant", None),
        ("bicycles -red", None),
    ],
)
def test_words_that_are_not_searched_and_parts_of_words_are_named(
    filled: Warehouse,  # noqa: F811
    words: str,
    expected: Hint | None,
) -> None:
    with filled.engine.connect() as connection:
        assert hint(connection, CaptionFilter(words=words)) == expected
