"""Ends the processes of a local Airflow. They all belong to one session of the operating system (see setsid)."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS = 10
# Processes of Airflow that can be killed when the scheduler's tasks have ended, because they have no work to finish.
_NOTHING_TO_FINISH = re.compile(r"airflow_components|\bairflow (api[-_]server|triggerer|dag-processor|serve-logs)\b")


def end_session(session: int) -> None:
    """End the processes of ``session``: first with SIGINT, then with SIGKILL. Ignores a second Ctrl-C.

    Waits for the scheduler and its tasks, but not for the other components, which can need 10 s to end.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(each, signal.SIG_IGN) for each in signals]
    try:
        waited = [member for member in members(session) if not _NOTHING_TO_FINISH.search(_command(member))]
        if psutil.pid_exists(session):
            os.kill(session, signal.SIGINT)  # airflow_components.py then ends the components
        _wait_until_ended(waited)
        left = members(session)
        for process in left:
            with suppress(psutil.NoSuchProcess):  # the process has ended meanwhile
                process.kill()
        _wait_until_ended(left)
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def members(session: int) -> list[psutil.Process]:
    """Live processes of the session, and their descendants, even if the session's first process has ended."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session:
                found |= {process, *process.children(recursive=True)}
    return [process for process in found if _command(process)]


def _wait_until_ended(processes: list[psutil.Process]) -> None:
    """Wait until all processes have ended, at most STOP_SECONDS.

    A zombie process counts as ended, even if its parent has not reaped it yet.
    """
    until = time.monotonic() + STOP_SECONDS
    while any(_command(process) for process in processes) and time.monotonic() < until:
        time.sleep(0.05)


def _command(process: psutil.Process) -> str:
    """The command line of a process. Empty if the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # also raised for a zombie process
        return ""


def end_orphans(file: Path, say: Callable[[str], None]) -> None:
    """End the Airflow that a killed demo left running. ``file`` contains that Airflow's session id.

    No other demo uses this Airflow, because this process holds the lock of Airflow's folder.
    """
    try:
        session = int(file.read_text())
    except (FileNotFoundError, ValueError):
        return
    left = members(session)
    if any("airflow" in _command(process) for process in left):
        say(f"ending the Airflow that an earlier run left behind ({len(left)} processes)")
        end_session(session)


def end_on_sigint() -> None:
    """Make SIGINT end Airflow, even if a shell started the demo as a background job, which ignores SIGINT.

    On Linux, the kernel also sends SIGINT to Airflow when the demo's process dies. Call this in the child process,
    between fork and exec.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent(signal.SIGINT)


def end_with_parent(number: signal.Signals) -> None:
    """On Linux, let the kernel send the signal ``number`` to this process when its parent dies."""
    if sys.platform.startswith("linux"):
        _LIBC.prctl(1, number)


# The C library. It is loaded before the fork, because loading a library between fork and exec can deadlock.
_LIBC = ctypes.CDLL(None)
