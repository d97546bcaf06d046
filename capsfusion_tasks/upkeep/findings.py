"""What a check finds: what is wrong, where, and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from capsfusion_tasks.settings import Interval
from capsfusion_tasks.warehouse.invariants import LedgerUnit

REPAIR = "capsfusion check --repair"


@dataclass(frozen=True)
class Finding:
    """``rule`` is broken at ``where``: ``what`` is there, ``mend`` says what to do about it.

    ``repair`` does what is safe and says what it did; None: nothing is. It raises NotReadyError where somebody is at
    work there.
    """

    rule: str
    where: str
    what: str
    mend: str
    repair: Callable[[], str] | None = None

    def as_dict(self) -> dict[str, str]:
        return {"rule": self.rule, "where": self.where, "what": self.what, "mend": self.mend}


def run_again(interval: Interval) -> str:
    """The command that does the interval's work again; what is finished is not done twice."""
    return f"{interval.command}, or clear the interval's run in Airflow"


def finish(unit: LedgerUnit) -> str:
    """The command that brings the unit to its end."""
    if unit.interval is not None:
        return run_again(unit.interval)
    return f"repeat the replay {unit.replay!r}: its command, or clear its run in Airflow"
