"""Progress of a backfill: a live table on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

TASKS = ("discover", "pull", "share_buckets", "pair", "plan", "fuse", "validate", "load", "check", "report")
LEGEND = (
    '"fuse 0/1": 0 of 1 fuse tasks of that day have finished. "fuse ·": they have not started. A day has a pull task\n'
    "for each shard, and a fuse task for each work unit (half an hour of GPU work). In this demo, each day is one unit."
)
LINE_SECONDS = 3.0  # minimum time between two log lines

_FAILED = ("failed", "upstream_failed")
_WAITING = (None, "none", "scheduled", "queued")


@dataclass(frozen=True)
class DayRun:
    """A day's DAG run. ``tasks``: task → states of its instances. A mapped task has an instance per map index."""

    day: str
    state: str
    tasks: Mapping[str, Sequence[str | None]]

    def cell(self, task: str) -> Text:
        """Finished and total instances of a task, such as ``2/4``. A dot: not started. A dash: skipped."""
        states = Counter(self.tasks.get(task, ()))
        if all(state in _WAITING for state in states):
            return Text("·", style="dim")
        # State "removed": an earlier try of the run had more instances.
        total = sum(states.values()) - states.pop("removed", 0)
        if states["skipped"] == total:
            return Text("–", style="dim")
        done = states["success"] + states["skipped"]
        if any(states[state] for state in _FAILED):
            return Text(f"{done}/{total} failed", style="red")
        return Text(f"{done}/{total}", style="green" if done == total else "yellow")

    def current(self) -> str:
        """The first unfinished task with its counts. The run's state if all tasks are finished."""
        if self.state in ("success", "failed", "queued"):
            return self.state
        for task in TASKS:
            cell = self.cell(task)
            if cell.style in ("yellow", "red") or str(cell) == "·":
                return f"{task} {cell}"
        return self.state


class Progress(Protocol):
    def show(self, days: Sequence[DayRun]) -> None: ...


class _LiveTable:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._started = time.monotonic()

    def show(self, days: Sequence[DayRun]) -> None:
        table = table_of(days)
        # The seconds show that the demo is running, even while no task ends.
        table.caption = f"{time.monotonic() - self._started:.0f} s"
        self._live.update(table)


def table_of(days: Sequence[DayRun]) -> Table:
    """A table with a row per task and a column per day. It fits into a terminal with 80 characters per line."""
    table = Table("task", *(day.day for day in days))
    for task in TASKS:
        table.add_row(task, *(day.cell(task) for day in days))
    table.add_section()
    styles = {"success": "green", "failed": "red"}
    table.add_row("the whole day", *(Text(day.state, style=styles.get(day.state, "yellow")) for day in days))
    return table


class _LogLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._last = time.monotonic()

    def show(self, days: Sequence[DayRun]) -> None:
        line = " | ".join(f"{day.day} {day.current()}" for day in days)
        now = time.monotonic()
        ended = all(day.state in ("success", "failed") for day in days)
        if ended or now - self._last >= LINE_SECONDS:
            self._console.print(f"{now - self._started:4.0f} s  {line}", markup=False, highlight=False)
            self._last = now


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """Show a live table if ``console`` is a terminal, otherwise log lines."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield _LiveTable(live)
    else:
        yield _LogLines(console)
