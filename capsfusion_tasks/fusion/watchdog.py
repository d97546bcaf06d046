"""Finds hung ranks (processes of torchrun). Does not import torch.

Each rank sends heartbeats, and the launcher, which started torchrun, notices if the heartbeats stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from capsfusion_tasks.settings import Settings

# The phases of a rank. loading: until the rank's first row is finished. working: the rank fuses rows. waiting: no rows
# are left for the rank.
Phase = Literal["loading", "working", "waiting"]

_BEAT = "capsfusion rank "
_BEAT_SECONDS = 1.0


class Heartbeat:
    """Sends a rank's heartbeats to the launcher, which reads them from the rank's standard output."""

    def __init__(self, rank: int, output: int = 1) -> None:
        self._rank, self._output = rank, output
        self._last: tuple[Phase, float] | None = None

    def beat(self, phase: Phase) -> None:
        """Report the phase. A new phase is reported at once, the same phase at most once a second."""
        now = time.monotonic()
        if self._last is not None and self._last[0] == phase and now < self._last[1] + _BEAT_SECONDS:
            return
        self._last = (phase, now)
        # Write the line with one system call, so that the lines of two ranks never mix.
        os.write(self._output, f"{_BEAT}{self._rank} {phase}\n".encode())


@dataclass(frozen=True)
class Timeouts:
    """Maximum times without progress, in seconds.

    ``stall``: between two finished rows of a rank. ``loading``: until a rank has loaded the model and finished a row.
    """

    stall: float = 15 * 60
    loading: float = 60 * 60

    @classmethod
    def of(cls, settings: Settings) -> Timeouts:
        return cls(60 * settings.stall_minutes, 60 * settings.loading_minutes)


@dataclass
class Watchdog:
    """Records the heartbeats of the ranks of one torchrun, and finds hung ranks."""

    timeouts: Timeouts
    clock: Callable[[], float] = time.monotonic
    # Rank → the phase of its last heartbeat, and the heartbeat's time.
    _ranks: dict[int, tuple[str, float]] = field(default_factory=dict)
    _last: float = field(init=False)  # time of the last heartbeat of any rank

    def __post_init__(self) -> None:
        self._last = self.clock()

    def takes(self, line: str) -> bool:
        """Whether ``line`` is a heartbeat. If so, records it. All other lines are output for people."""
        rank, _, phase = line.removeprefix(_BEAT).partition(" ")
        if not line.startswith(_BEAT) or not rank.isdigit() or phase not in ("loading", "working", "waiting"):
            return False
        self._last = self.clock()
        self._ranks[int(rank)] = (phase, self._last)
        return True

    def hung(self) -> str | None:
        """A message that names the ranks that have made no progress for too long. None if there are no such ranks.

        Ranks in the phase "waiting" have no rows, so they count as hung only if all ranks wait and none sends a
        heartbeat.
        """
        now = self.clock()
        limits = {"working": self.timeouts.stall, "loading": self.timeouts.loading}
        busy = {rank: last for rank, last in self._ranks.items() if last[0] in limits}
        silent = [rank for rank, (phase, when) in sorted(busy.items()) if now - when > limits[phase]]
        if silent:
            names = f"rank {silent[0]} has" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))} have"
            longest = max(now - busy[rank][1] for rank in silent)
            return f"{names} finished no row for {longest / 60:.1f} minutes"
        if not busy and now - self._last > self.timeouts.loading:
            return f"no rank has reported for {(now - self._last) / 60:.1f} minutes"
        return None
