"""Tests ``explain_missing``, which finds the plan that left out the missing pairs of one or two intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep.lost_pairs import Account, explain_missing
from capsfusion_tasks.warehouse.plans import PlannedPairs
from tests.upkeep.conftest import DAYS

FIRST, SECOND = DAYS[:2]
ONE, BOTH = frozenset({FIRST}), frozenset({FIRST, SECOND})


@pytest.mark.parametrize(
    ("gone_in_plans", "left", "gone", "missing", "explained", "lost"),
    [
        ((3, 0), 0, {}, {ONE: 3}, {FIRST: 3}, {}),
        ((3, 0), 0, {ONE: 2}, {ONE: 3}, {FIRST: 1}, {FIRST: 2}),
        ((0, 3), 0, {}, {ONE: 3}, {}, {FIRST: 3}),
        ((2, 2), 0, {}, {BOTH: 3}, {FIRST: 1, SECOND: 2}, {}),
        ((2, 2), 0, {BOTH: 1}, {ONE: 2, BOTH: 2}, {FIRST: 2, SECOND: 1}, {SECOND: 1}),
        ((1, 0), 5, {}, {ONE: 2, BOTH: 1}, {}, {}),
    ],
)
def test_a_plan_explains_as_many_pairs_as_it_left_out(
    gone_in_plans: tuple[int, int],
    left: int,
    gone: dict[frozenset[Interval], int],
    missing: dict[frozenset[Interval], int],
    explained: dict[Interval, int],
    lost: dict[Interval, int],
    tmp_path: Path,
) -> None:
    plans = {
        FIRST: PlannedPairs(9, already_fused=0, left=left, gone=gone_in_plans[0]),
        SECOND: PlannedPairs(9, already_fused=0, left=0, gone=gone_in_plans[1]),
    }
    no_units = PairsInFlight(Storage(str(tmp_path)), [])
    account = Account("f1", plans, {}, no_units)
    account.gone.update(gone)
    account.missing.update(missing)
    explain_missing(account)
    assert account.gone_before == explained
    assert account.lost == lost
    assert account.found["lost"] == sum(lost.values())
    assert account.found["image gone when planned"] == sum(explained.values())
    assert account.found["left for a limit"] == (sum(missing.values()) if left else 0)
