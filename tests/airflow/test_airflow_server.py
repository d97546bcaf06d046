"""Starts a local Airflow when ports or its folder are in use, or when a killed Airflow has left processes behind."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from capsfusion_tasks.demo import airflow_processes, airflow_server
from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.airflow_server import LocalAirflow, local_airflow
from capsfusion_tasks.demo.progress import DayRun, progress
from capsfusion_tasks.errors import InputError, NotReadyError

NO_DATABASE = "postgresql+psycopg2://nobody@/nothing?host=/nowhere"

# Behaves like a killed Airflow: a child process in its session keeps running.
LEAVES_A_CHILD = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "airflow scheduler"]).pid, flush=True)
"""


@pytest.fixture
def left_over(tmp_path: Path) -> Iterator[psutil.Process]:
    folder = tmp_path / "airflow"
    folder.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", LEAVES_A_CHILD], stdout=subprocess.PIPE, start_new_session=True)
    assert dead.stdout is not None
    child = psutil.Process(int(dead.stdout.readline()))
    while not child.cmdline():  # on a busy machine it can be empty for a moment after the start
        time.sleep(0.01)
    dead.wait()
    dead.stdout.close()
    (folder / airflow_server.PID_FILE).write_text(str(dead.pid))
    yield child
    if child.is_running():
        child.kill()


def start(home: Path, say: airflow_server.Say = print) -> None:
    with local_airflow(home, NO_DATABASE, {}, say=say):
        pass


def test_what_a_killed_airflow_left_running_is_ended_first(
    tmp_path: Path, left_over: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_processes, "STOP_SECONDS", 1)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    said: list[str] = []
    # The start fails, because its Python is a program that fails, but only after it has ended the old processes.
    with pytest.raises(NotReadyError, match=r"Airflow has ended.*airflow\.log"):
        start(tmp_path, said.append)
    # It may still be a zombie, which has no command line, until init has noticed its end.
    assert not airflow_processes._command(left_over)
    assert said[0] == "ending the Airflow that an earlier run left behind (1 processes)"


# Behaves like airflow_components.py with a scheduler that finishes its tasks, and a triggerer that never ends.
ENDS_LATE = """
import pathlib, signal, subprocess, sys, time
finishing = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: ("
finishing += "time.sleep(1), pathlib.Path(sys.argv[1]).touch(), sys.exit())); print(flush=True); time.sleep(600)"
endless = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
def start(*argv): return subprocess.Popen([sys.executable, "-c", *argv], stdout=subprocess.PIPE)
parts = [start(finishing, sys.argv[1], "airflow scheduler"), start(endless, "airflow triggerer")]
signal.signal(signal.SIGINT, lambda *_: [part.terminate() for part in parts])
for part in parts: part.stdout.readline()
print(flush=True)
for part in parts: part.wait()
"""


def test_only_the_scheduler_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_processes, "STOP_SECONDS", 600)
    finished = tmp_path / "finished"
    service = subprocess.Popen(
        [sys.executable, "-c", ENDS_LATE, str(finished), "airflow_components"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with service:
        assert service.stdout is not None
        service.stdout.readline()
        airflow_processes.end_session(service.pid)
    assert finished.exists()
    assert airflow_processes.members(service.pid) == []


def test_a_process_that_took_over_the_number_is_let_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        (tmp_path / "pid").write_text(str(other.pid))
        airflow_processes.end_orphans(tmp_path / "pid", print)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_second_airflow_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "airflow"
    folder.mkdir()
    refused = pytest.raises(InputError, match="another `make demo` or `make up` is using")
    with airflow_server._exclusive(folder), refused:
        start(tmp_path)


def test_a_port_that_is_in_use_is_seen_and_another_is_found() -> None:
    with socket.socket() as taken:
        taken.bind((airflow_server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not airflow_server._is_free(port)
        others = airflow_server._free_ports(3)
        assert len({port, *others}) == 4
        assert all(airflow_server._is_free(other) for other in others)


def test_only_the_owner_can_read_the_password(tmp_path: Path) -> None:
    password = airflow_server._password(tmp_path)
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    assert airflow_server._password(tmp_path) == password, "it stays"


def test_an_airflow_that_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="no answer from Airflow at"):
        AirflowApi(f"http://{airflow_server.HOST}:{airflow_server._free_ports(1)[0]}", "admin", "x").health()
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    ended.wait()
    with pytest.raises(NotReadyError, match="exit code 3"):
        LocalAirflow(AirflowApi("", "", ""), "", tmp_path, ended).check()


def test_progress_in_a_log_is_a_line_every_few_seconds_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 2)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    pulling = DayRun("2026-11-10", "running", {"discover": ["success"], "pull": ["success", "running", None]})
    ended = DayRun("2026-11-10", "success", {"report": ["success"]})
    with progress(console) as display:
        for day in (pulling, pulling, pulling, pulling, ended):
            display.show([day])
    console.file.close()
    assert [line.strip() for line in console.export_text().splitlines()] == [
        "4 s  2026-11-10 pull 1/3",
        "8 s  2026-11-10 pull 1/3",
        "10 s  2026-11-10 success",
    ]


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        ([], "·"),
        ([None], "·"),
        (["success", "running"], "1/2"),
        (["success", "failed", "upstream_failed"], "1/3 failed"),
        (["skipped"], "–"),
        (["removed", "removed"], "–"),
        (["success", "removed"], "1/1"),
    ],
)
def test_a_task_is_shown_by_what_its_instances_do(states: list[str | None], shown: str) -> None:
    assert str(DayRun("2026-11-10", "running", {"pull": states}).cell("pull")) == shown
