"""The processes of a local Airflow: in which order they start, and how they end. Airflow itself is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from capsfusion_tasks.demo.airflow_processes import end_on_sigint

# Runs airflow_components.py with an Airflow whose commands only write their names to a file, and then wait.
COMPONENTS = """
import os, sys, time
from pathlib import Path
from capsfusion_tasks.demo import airflow_components as components

def airflow(*command):
    if command[0] == "config":
        return
    with open(sys.argv[1], "a") as file:
        file.write(" ".join(command) + "\\n")
    if command[0] == "db":
        sys.exit(int(sys.argv[2]))
    time.sleep(600)

components._BASE = components._JOBS = components._TASKS = ()
components._import = lambda modules: None
components._airflow = airflow
sys.exit(components.main())
"""
NAMES = ["api-server", "dag-processor", "scheduler", "triggerer"]


class Components:
    def __init__(self, file: Path, migration: int = 0) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMPONENTS, str(file), str(migration)],
            stdin=subprocess.PIPE,
            text=True,
            preexec_fn=end_on_sigint,  # a shell's background job ignores SIGINT, and so do the processes that it starts
        )

    def database_runs(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.close()

    def started(self) -> list[str]:
        return self.file.read_text().splitlines() if self.file.exists() else []

    def wait_for_all(self) -> list[psutil.Process]:
        while len(self.started()) < 1 + len(NAMES):
            assert self.process.poll() is None
        return psutil.Process(self.process.pid).children()


@pytest.fixture
def components(tmp_path: Path) -> Iterator[Components]:
    made = Components(tmp_path / "started")
    yield made
    made.process.kill()
    made.process.wait()


def test_the_database_is_migrated_before_a_component_starts(components: Components) -> None:
    components.database_runs()
    children = components.wait_for_all()
    first, *others = components.started()
    assert first == "db migrate"
    assert sorted(others) == NAMES
    titles = {" ".join(child.cmdline()).strip() for child in children}
    assert titles == {f"airflow {name}" for name in NAMES}


def test_nothing_uses_the_database_before_it_runs(components: Components) -> None:
    while not psutil.Process(components.process.pid).children():  # until the API server's process is there
        assert components.process.poll() is None
    assert components.process.stdin is not None
    components.process.stdin.close()  # what happens if the demo could not start the database, or has died
    assert components.process.wait(timeout=60) == 1
    assert components.started() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_all_components_end_with_their_parent(components: Components, number: signal.Signals) -> None:
    components.database_runs()
    children = components.wait_for_all()
    os.kill(components.process.pid, number)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert components.process.wait(timeout=60) == (0 if number == signal.SIGINT else -number)


def test_a_failed_migration_ends_all(tmp_path: Path) -> None:
    made = Components(tmp_path / "started", migration=3)
    made.database_runs()
    assert made.process.wait(timeout=60) == 1
    assert made.started() == ["db migrate"]
