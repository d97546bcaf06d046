"""A short version of ``make test-faults``, with one kill. Also tests how differences are counted."""

from __future__ import annotations

import pytest

from tests.faults.result import Difference, Table, difference
from tests.faults.trial import Outcome, Trial, attempt, possible_faults, report
from tests.faults.workload import IN_ONE_PROCESS, Workload

ROWS = [(pair, "fusion", "caption", ()) for pair in "abc"]
UNITS = [("u1", "loaded", 3, 2, 1, 0)]
SEED = 69  # with this seed, the run is killed while torchrun starts, which takes seconds


@pytest.mark.timeout(900)
def test_one_retry_makes_up_for_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    faults, _ = possible_faults()
    [fault] = [fault for fault in faults if fault.name == "kill -9 the command"]
    trial = Trial.drawn(SEED, fault)
    assert trial.stage == "start torchrun", "the seed draws another stage: choose one that lasts for seconds"
    workload = Workload.prepare(tmp_path_factory.mktemp("faults"), rows_per_day=8, unbroken=IN_ONE_PROCESS)
    outcome = attempt(trial, workload)
    assert outcome.broken, f"{trial} did not hit: {outcome.said}"
    assert not outcome.found, f"{trial}: {outcome.found}; the broken run said {outcome.said}"


def test_what_is_lost_doubled_or_changed_is_counted() -> None:
    found = Table([ROWS[0], ROWS[0], ("b", "fusion", "another", ())], UNITS)
    wrong = difference(found, Table(ROWS, UNITS))
    assert (wrong.lost, wrong.doubled, wrong.changed) == (1, 1, 1)
    assert not difference(Table(ROWS, UNITS), Table(ROWS, UNITS))


def test_a_unit_that_is_stuck_or_counts_otherwise_is_a_problem() -> None:
    stuck = difference(Table(ROWS, [("u1", "fusing", 3, None, None, 0)]), Table(ROWS, UNITS))
    assert stuck.problems[0] == "unit u1 is fusing"
    other = difference(Table(ROWS, [*UNITS, ("u2", "loaded", 1, 1, 0, 0)]), Table(ROWS, UNITS))
    assert other.problems == ("rows_in of all units is 4, expected 3", "accepted of all units is 3, expected 2")
    shared = [("u1", "loaded", 1, 1, 0, 0), ("u2", "loaded", 2, 1, 1, 0)]
    assert not difference(Table(ROWS, shared), Table(ROWS, UNITS))


def test_the_same_seed_is_the_same_trial() -> None:
    faults, _ = possible_faults()
    assert [Trial.drawn(7, fault) for fault in faults] == [Trial.drawn(7, fault) for fault in faults]
    assert len({Trial.drawn(seed, faults[0]).moment for seed in range(20)}) == 20


def test_the_table_says_what_each_fault_cost() -> None:
    faults, _ = possible_faults()
    trials = [Trial.drawn(seed, faults[0]) for seed in range(3)]
    seconds = (4.0, 5.0, 9.0)
    outcomes = [
        Outcome(trial, Difference(lost=number), took, broken=True)
        for number, (trial, took) in enumerate(zip(trials, seconds, strict=True))
    ]
    line = report(outcomes).splitlines()[1]
    assert line.split() == [*faults[0].name.split(), "3", "3", "3", "0", "0", "5.0", "9.0"]
