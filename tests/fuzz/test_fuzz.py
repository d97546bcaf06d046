"""Runs every fuzz target on inputs that once failed, then on a few more inputs. The inputs are the same in each run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS

ALL = list(HealthCheck)
SHORT = settings(derandomize=True, deadline=None, database=None, suppress_health_check=ALL)


@pytest.mark.parametrize("name", TARGETS)
def test_what_must_hold_holds(name: str) -> None:
    target = TARGETS[name]

    @settings(SHORT, max_examples=target.examples)
    @given(target.strategy)
    def holds(found: Any) -> None:
        target.holds(found)

    for found in target.past:
        target.holds(found)
    holds()


@pytest.mark.slow
def test_a_fuzz_run_that_is_ended_leaves_no_files(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--target", "csv"]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}) as fuzzing:
        try:
            deadline = time.monotonic() + 200
            while not any(file.stat().st_size for file in tmp_path.glob("*/last")):  # the first input
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            fuzzing.terminate()
        assert fuzzing.wait(timeout=60) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
