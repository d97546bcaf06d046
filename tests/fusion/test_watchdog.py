"""Tests when the watchdog counts a rank as hung. In tests/fusion/test_launcher.py, ranks really hang."""

from __future__ import annotations

import os

from capsfusion_tasks.fusion.watchdog import Heartbeat, Phase, Timeouts, Watchdog
from capsfusion_tasks.settings import load_settings


class Listener:
    """A watchdog whose clock is set by the test, in minutes."""

    def __init__(self) -> None:
        self.minutes = 0.0
        self.watch = Watchdog(Timeouts.of(load_settings()), clock=lambda: 60 * self.minutes)

    def hears(self, *beats: str) -> Listener:
        for beat in beats:
            assert self.watch.takes(f"capsfusion rank {beat}")
        return self

    def after(self, minutes: float) -> str | None:
        self.minutes += minutes
        return self.watch.hung()


def test_loading_a_model_may_take_longer_than_a_row() -> None:
    listener = Listener().hears("0 loading")
    assert listener.after(59) is None
    assert listener.hears("0 working").after(14) is None
    assert listener.after(2) == "rank 0 has finished no row for 16.0 minutes"


def test_a_model_that_never_loads_is_noticed_and_so_is_a_torchrun_that_never_starts_ranks() -> None:
    assert Listener().hears("0 loading").after(61) == "rank 0 has finished no row for 61.0 minutes"
    assert Listener().after(61) == "no rank has reported for 61.0 minutes"


def test_one_rank_is_found_among_others_that_work() -> None:
    listener = Listener().hears("0 working", "1 working", "2 working")
    assert listener.after(10) is None
    listener.hears("0 working", "2 waiting")
    assert listener.after(6) == "rank 1 has finished no row for 16.0 minutes"
    assert listener.after(10) == "ranks 0, 1 have finished no row for 26.0 minutes"


def test_a_rank_that_has_no_more_rows_waits_for_those_that_have() -> None:
    listener = Listener().hears("0 waiting", "1 working")
    for _ in range(20):
        assert listener.hears("1 working").after(10) is None
    assert listener.hears("1 waiting").after(61) == "no rank has reported for 61.0 minutes"


def test_other_lines_are_no_heartbeats() -> None:
    watch = Watchdog(Timeouts())
    for line in ("rank 0: 5/50 rows", "capsfusion rank x working", "capsfusion rank 1 is late", ""):
        assert not watch.takes(line)


def test_a_rank_reports_a_phase_once_a_second() -> None:
    reading, writing = os.pipe()
    heartbeat = Heartbeat(3, writing)
    phases: list[Phase] = ["loading", "loading", "working", "working", "working", "waiting"]
    for phase in phases:
        heartbeat.beat(phase)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read().split("\n") == [
            f"capsfusion rank 3 {word}" for word in ("loading", "working", "waiting")
        ] + [""]
