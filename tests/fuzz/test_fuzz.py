"""Every fuzz target with a few fixed inputs, starting with those that once failed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS

ALL = list(HealthCheck)
SHORT = settings(derandomize=True, deadline=None, database=None, suppress_health_check=ALL)


@pytest.mark.parametrize("name", TARGETS)
def test_what_must_hold_holds(name: str) -> None:
    target = TARGETS[name]

    @settings(SHORT, max_examples=target.examples)
    @given(target.strategy)
    def holds(found: Any) -> None:
        target.holds(found)

    for found in target.past:
        target.holds(found)
    holds()
