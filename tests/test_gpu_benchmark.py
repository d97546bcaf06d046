"""`python -m benchmarks.gpu`: each case survives what becomes of another."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from benchmarks.gpu.cases import Case, Line, run_case
from benchmarks.gpu.rates import rate_while_full


def raises() -> None:
    raise ValueError("no such kernel\nand much more")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (raises, "ValueError: no such kernel"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "its process died"),
        (lambda: time.sleep(30), "took too long"),
    ],
)
def test_a_case_that_fails_dies_or_hangs_becomes_a_line_that_says_so(end: Callable[[], None], why: str) -> None:
    case = Case("broken", lambda found: [Line("broken", str(end()))], seconds=0.5)
    assert run_case(case, {}) == [Line("broken", "FAILED", why, ok=False)]


def test_a_case_sees_the_figures_of_those_before_it_and_hands_its_own_over() -> None:
    case = Case("whole", lambda found: [Line("whole", "done", figures={"twice": 2 * found["part"]["rows"]})])
    assert run_case(case, {"part": {"rows": 21}})[0].figures == {"twice": 42}


def test_the_rate_with_all_slots_busy_leaves_out_the_first_turnover_and_the_end() -> None:
    # Two slots: nothing for 10 s, then a row each second, and the last two take 5 s each.
    assert rate_while_full([10, 11, 12, 13, 14, 15, 20, 25], slots=2) == pytest.approx(1.0)
    assert rate_while_full([1, 2, 3, 4, 5], slots=2) is None
