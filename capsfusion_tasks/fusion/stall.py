"""Ranks that hang: alive, and no further. What ranks say of themselves, and who listens. No torch here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from capsfusion_tasks.settings import Settings

# loading: until its first row is done. waiting: there are no more rows for it.
Phase = Literal["loading", "working", "waiting"]

_SIGN = "capsfusion rank "
_SIGN_SECONDS = 1.0


class SignsOfLife:
    """A rank's, for the launcher, which reads its standard output."""

    def __init__(self, rank: int, output: int = 1) -> None:
        self._rank, self._output = rank, output
        self._said: tuple[Phase, float] | None = None

    def give(self, phase: Phase) -> None:
        """Say that something has got done. Often is cheap: it is written once a second."""
        now = time.monotonic()
        if self._said is not None and self._said[0] == phase and now < self._said[1] + _SIGN_SECONDS:
            return
        self._said = (phase, now)
        # In one piece, so that the lines of two ranks cannot meet in the middle.
        os.write(self._output, f"{_SIGN}{self._rank} {phase}\n".encode())


@dataclass(frozen=True)
class Patience:
    """Seconds that a rank may take for a row, and for its first one, with the model to be fetched and loaded before."""

    stall: float = 15 * 60
    loading: float = 60 * 60

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        return cls(60 * settings.stall_minutes, 60 * settings.loading_minutes)


@dataclass
class StallWatch:
    """Listens to the ranks of one torchrun."""

    patience: Patience
    clock: Callable[[], float] = time.monotonic
    _ranks: dict[int, tuple[str, float]] = field(default_factory=dict)  # what each said last, and when
    _heard: float = field(init=False)

    def __post_init__(self) -> None:
        self._heard = self.clock()

    def takes(self, line: str) -> bool:
        """Whether ``line`` is a sign of life; other lines are for people."""
        rank, _, phase = line.removeprefix(_SIGN).partition(" ")
        if not line.startswith(_SIGN) or not rank.isdigit() or phase not in ("loading", "working", "waiting"):
            return False
        self._heard = self.clock()
        self._ranks[int(rank)] = (phase, self._heard)
        return True

    def hung(self) -> str | None:
        """Which ranks have got nothing done for too long; None: all is well.

        A rank without rows of its own waits for the others, so it counts where all do, or where none has said a word.
        """
        now = self.clock()
        limits = {"working": self.patience.stall, "loading": self.patience.loading}
        at_work = {rank: said for rank, said in self._ranks.items() if said[0] in limits}
        silent = [rank for rank, (phase, when) in sorted(at_work.items()) if now - when > limits[phase]]
        if silent:
            names = f"rank {silent[0]} has" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))} have"
            longest = max(now - at_work[rank][1] for rank in silent)
            return f"{names} finished no row for {longest / 60:.1f} minutes"
        if not at_work and now - self._heard > self.patience.loading:
            return f"no rank has given a sign for {(now - self._heard) / 60:.1f} minutes"
        return None
