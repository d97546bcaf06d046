"""A trial breaks a run, retries it once, and compares the caption tables with those of an undisturbed run."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random

from tests.faults.faults import FAULTS, Fault, Strike
from tests.faults.result import Difference, difference
from tests.faults.workload import SECONDS, STAGES, Run, Site, Workload


@dataclass(frozen=True)
class Trial:
    """A fault, and the stage and moment at which it hits a run. Seed and fault determine all random choices."""

    seed: int
    fault: Fault
    stage: str
    moment: float  # when in the stage: 0 is its start, 1 its end

    @classmethod
    def drawn(cls, seed: int, fault: Fault) -> Trial:
        random = Random(f"{seed} {fault.name}")
        return cls(seed, fault, random.choice(fault.stages), random.random())

    def __str__(self) -> str:
        return f"{self.fault.name}, {self.stage} at {self.moment:.0%} (seed {self.seed})"


@dataclass(frozen=True)
class Outcome:
    trial: Trial
    found: Difference
    seconds: float  # seconds that the retry took
    broken: bool  # whether the run failed; if not, it survived the fault, or ended before the fault
    said: tuple[str, ...] = ()  # the broken run's last lines


def attempt(trial: Trial, workload: Workload) -> Outcome:
    fault, random = trial.fault, Random(f"{trial.seed} {trial.fault.name} strikes")
    with fault.place(workload, f"trial-{trial.seed}") as site:
        run = site.run(*fault.days[0], **fault.first(random))
        strike = Strike(site, run, random)
        if run.reaches(trial.stage):
            run.lingers_in(trial.stage, trial.moment * _stage_seconds(trial.stage, run, workload))
            fault.strike(strike)
        problems = [said for each in (run, *strike.others) if (said := _why_endless(each))]
        fault.lift(site)
        code = max(abs(each.process.returncode) for each in (run, *strike.others))
        began = time.monotonic()
        # Retry each run's days, because runs of overlapping days may have shared their units.
        for days in dict.fromkeys(fault.days):
            problems += _retry(site, days)
        seconds = time.monotonic() - began
        problems += [*_left_behind(site), *check(site)]
        found = difference(site.table(), workload.expected)
    found = replace(found, problems=(*problems, *found.problems))
    return Outcome(trial, found, seconds, broken=code != 0, said=tuple(run.lines[-12:]))


def _stage_seconds(stage: str, run: Run, workload: Workload) -> float:
    """Estimated seconds of the stage, from the run's speed so far, because other work may slow the machine down."""
    before = sum(workload.stage_seconds.get(each, 0) for each in STAGES[: STAGES.index(stage)])
    pace = (time.monotonic() - run.began) / before if before else 1
    return pace * workload.stage_seconds.get(stage, 0)


def _why_endless(run: Run) -> str | None:
    try:
        run.wait(SECONDS)
    except subprocess.TimeoutExpired:
        run.process.kill()
        run.wait(10)
        return f"the broken run did not end within {SECONDS} s; last it said {run.lines[-1:]}"
    return None


def _retry(site: Site, days: tuple[str, str]) -> list[str]:
    retry = site.run_unbroken(*days)
    if why := _why_endless(retry):
        return [f"retry: {why}"]
    if code := retry.process.returncode:
        return [f"the retry ended with exit code {code}: " + "\n".join(retry.lines[-12:])]
    return []


def check(site: Site) -> list[str]:
    """Run `capsfusion check` on the site. Returns what it finds."""
    check = site.command("check")
    if why := _why_endless(check):
        return [f"capsfusion check: {why}"]
    return [f"capsfusion check: {line}" for line in check.lines] if check.process.returncode else []


def _left_behind(site: Site) -> list[str]:
    """Wait for the broken run's processes to end. Returns a problem if some are still alive."""
    deadline = time.monotonic() + 15
    while (left := site.processes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"{len(left)} processes of the broken run are still there: {left}"] if left else []


def possible_faults() -> tuple[list[Fault], dict[str, str]]:
    """The faults that this machine can cause, and why it cannot cause the others."""
    reasons = {fault.name: why for fault in FAULTS if (why := fault.why_not())}
    return [fault for fault in FAULTS if fault.name not in reasons], reasons


def report(outcomes: Iterable[Outcome]) -> str:
    """A table with a line for each fault, and a line for all faults."""
    by_fault: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_fault.setdefault(outcome.trial.fault.name, []).append(outcome)
    everything = [outcome for found in by_fault.values() for outcome in found]
    titles = ("runs", "broken", "lost", "doubled", "changed", "median s", "worst s")
    head = f"{'fault':32}" + "".join(f" {title:>8}" for title in titles)
    return "\n".join([head, *(_line(name, found) for name, found in by_fault.items()), _line("all", everything)])


def _line(name: str, outcomes: list[Outcome]) -> str:
    seconds = [outcome.seconds for outcome in outcomes]
    lost, doubled, changed = (
        sum(getattr(outcome.found, what) for outcome in outcomes) for what in ("lost", "doubled", "changed")
    )
    broken = sum(outcome.broken for outcome in outcomes)
    return (
        f"{name:32} {len(outcomes):8} {broken:8} {lost:8} {doubled:8} {changed:8}"
        f" {statistics.median(seconds):8.1f} {max(seconds):8.1f}"
    )
