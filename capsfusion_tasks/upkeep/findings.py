"""A finding: what is wrong, where, and how to repair it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.invariants import LedgerUnit

REPAIR = "capsfusion check --repair"


@dataclass(frozen=True)
class Finding:
    """A problem that a check found.

    ``rule``: the name of the broken rule. ``where``: a file, shard, unit or time range. ``what``: what is wrong there.
    ``mend``: what a person should do.

    ``repair``: a function that repairs the problem and returns what it did. It raises NotReadyError while a task works
    on the same unit or shard. None if no repair is safe.
    """

    rule: str
    where: str
    what: str
    mend: str
    repair: Callable[[], str] | None = None

    def as_dict(self) -> dict[str, str]:
        return {"rule": self.rule, "where": self.where, "what": self.what, "mend": self.mend}


def run_again(interval: Interval) -> str:
    """The command that runs the interval again. Finished work is not repeated."""
    return f"{interval.command}, or clear the interval's run in Airflow"


def finish(unit: LedgerUnit) -> str:
    """The command that finishes the unit."""
    if unit.interval is not None:
        return run_again(unit.interval)
    return f"run the command of the replay {unit.replay!r} again, or clear its run in Airflow"
