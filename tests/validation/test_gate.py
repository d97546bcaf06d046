"""Tests how many rejections close the gate, so that a unit is not loaded."""

from __future__ import annotations

import pytest

from capsfusion_tasks.thresholds import GateSettings
from capsfusion_tasks.validation.gate import Verdicts, drift, why_closed
from capsfusion_tasks.validation.tally import Tally

SETTINGS = GateSettings()
USUAL = [Verdicts(accepted=1840 + n, rejected=160 - n) for n in (-9, -4, 0, 5, 8)]


def unit(rows: int, rejected: int) -> Tally:
    return Tally(rows=rows, accepted=rows - rejected)


@pytest.mark.parametrize(
    ("rows", "rejected", "closed"),
    [(1000, 250, False), (1000, 251, True), (100, 26, True), (99, 99, False), (0, 0, False)],
)
def test_a_unit_with_more_than_its_share_of_rejections_is_stopped(rows: int, rejected: int, closed: bool) -> None:
    why = why_closed(unit(rows, rejected), [], SETTINGS)
    assert (why is not None) == closed
    assert why is None or "25%" in why


def test_a_unit_far_from_those_before_it_is_stopped_below_the_limit_too() -> None:
    assert why_closed(unit(2000, 180), USUAL, SETTINGS) is None
    why = why_closed(unit(2000, 300), USUAL, SETTINGS)
    assert why is not None
    assert "than the 8.0% of the last 5 units" in why
    assert why_closed(unit(2000, 300), USUAL[:2], SETTINGS) is None  # two earlier units do not show what is usual
    assert why_closed(unit(2000, 0), USUAL, SETTINGS) is None  # unusually few rejections are no problem


def test_units_that_differ_among_themselves_leave_more_room() -> None:
    mixed = [Verdicts(2000 - rejected, rejected) for rejected in (40, 300, 90, 250, 120)]
    assert drift(unit(2000, 300), mixed)[0] == pytest.approx(drift(unit(2000, 300), USUAL)[0], abs=0.001)
    assert drift(unit(2000, 300), mixed)[1] < 2 < 6 < drift(unit(2000, 300), USUAL)[1]
    assert why_closed(unit(2000, 300), mixed, SETTINGS) is None


def test_a_small_difference_stops_no_unit_however_certain_it_is() -> None:
    certain = [Verdicts(920_000, 80_000)] * 5
    assert drift(unit(1_000_000, 100_000), certain)[1] > 20
    assert why_closed(unit(1_000_000, 100_000), certain, SETTINGS) is None


def test_units_without_any_rejection_are_no_division_by_zero() -> None:
    clean = [Verdicts(200, 0)] * 3
    assert why_closed(unit(200, 0), clean, SETTINGS) is None
    assert why_closed(unit(200, 1), clean, SETTINGS) is None
    assert why_closed(unit(200, 20), clean, SETTINGS) is not None


def test_tiny_units_do_not_count_as_usual() -> None:
    assert why_closed(unit(2000, 300), [Verdicts(20, 0)] * 10, SETTINGS) is None


@pytest.mark.parametrize(("setting", "value"), [("rejected_max", 0.1), ("drift_max", 1.0), ("min_rows", 1)])
def test_its_limits_are_settings(setting: str, value: float) -> None:
    tally = unit(50, 25) if setting == "min_rows" else unit(2000, 222)
    assert why_closed(tally, USUAL, SETTINGS) is None
    assert why_closed(tally, USUAL, GateSettings(**{setting: value})) is not None
