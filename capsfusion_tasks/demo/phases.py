"""Prints a numbered title when a phase of the demo begins, and the phase's duration when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.settings import Settings


@dataclass
class Phases:
    """Announces ``total`` phases, one after the other. ``started``: when the demo began."""

    console: Console
    total: int
    number: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self.started

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        self.number += 1
        self.console.print(f"\n{self.number}/{self.total} {title}", style="bold", markup=False)
        started = time.monotonic()
        yield
        self.console.print(f"    done in {time.monotonic() - started:.1f} s", style="dim")


def introduction(settings: Settings) -> str:
    """One line that says which captions and which model the demo uses."""
    if settings.model == str(BUNDLED_MODEL):
        return "Made-up captions, toy model: this shows how the pipeline works, not how well BAAI/CapsFus-LLaMA writes."
    return f"Made-up captions, fused by the model {settings.model}."
