"""Starts torchrun for a job, and stops torchrun with all its ranks (the processes that torchrun starts).

Does not import torch, because Airflow tasks import this module.
"""

from __future__ import annotations

import ctypes
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO

import psutil

from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed
from capsfusion_tasks.fusion.torchrun_command import DEFAULTS, torchrun_environment
from capsfusion_tasks.fusion.watchdog import Timeouts, Watchdog

# In a rank's output, these marks precede the message of an InputError or a NotReadyError. The process that started
# torchrun finds the mark and raises the same error.
INPUT_ERROR_MARK = "capsfusion input error: "
NOT_READY_MARK = "capsfusion not ready: "
STARTED_BY = "TORCHRUN_STARTED_BY"  # environment variable of the ranks: id of the process that started torchrun
_MARKED = {INPUT_ERROR_MARK: InputError, NOT_READY_MARK: NotReadyError}
_LAST_LINES = 30
_WATCH_SECONDS = 1.0
# The line in which torchrun names the failed rank. Later lines are dropped: they are pages of torchrun's own traceback.
_RANK_FAILED = re.compile(r".*torch/distributed/elastic/.*failed \(exitcode: ")


class Torchrun:
    """One torchrun process. ``on_line`` gets its output, line by line.

    If a rank makes no progress for longer than ``timeouts``, all ranks are ended. ``defaults`` are environment
    variables for torchrun. A value in the environment takes precedence over a default.
    """

    def __init__(
        self,
        argv: list[str],
        on_line: Callable[[str], None] | None = None,
        timeouts: Timeouts | None = None,
        defaults: Mapping[str, str] = DEFAULTS,
    ) -> None:
        self._argv = argv
        self._env = torchrun_environment(defaults, os.environ)
        self._on_line = on_line or print
        self._timeouts = timeouts or Timeouts()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()  # lines of torchrun's output; None marks its end

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._argv,
            env={**self._env, STARTED_BY: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            preexec_fn=_die_with_parent,
        )
        threading.Thread(target=self._read, args=(self._process.stdout,), name="torchrun", daemon=True).start()

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait(self) -> None:
        """Pass torchrun's output to ``on_line`` until torchrun has ended.

        Raises the InputError or NotReadyError of a rank, NotReadyError if a rank hangs, and TorchrunFailed for all
        other failures.
        """
        if (process := self._process) is None:
            raise RuntimeError("torchrun was not started")
        last: deque[str] = deque(maxlen=_LAST_LINES)
        watchdog = Watchdog(self._timeouts)
        failed = False
        while True:
            try:
                line = self._lines.get(timeout=_WATCH_SECONDS)
            except queue.Empty:
                line = ""
            if line is None:
                break
            mark = next((mark for mark in _MARKED if line.startswith(mark)), None)
            if mark is not None:
                # Stop here, because all ranks have the same error and torchrun would only add a page of tracebacks.
                self.terminate()
                process.wait()
                raise _MARKED[mark](line.removeprefix(mark).strip())
            if line and not failed and not watchdog.takes(line):
                last.append(line)
                self._on_line(line)
                failed = _RANK_FAILED.match(line) is not None
            if hung := watchdog.hung():
                self._kill()
                raise NotReadyError(
                    f"{hung}: torchrun and all its ranks were ended. The next try continues after the finished rows. If"
                    " the ranks were only slow, raise CAPSFUSION_STALL_MINUTES or CAPSFUSION_LOADING_MINUTES"
                )
        code = process.wait()
        if code != 0:
            raise TorchrunFailed(f"torchrun ended with exit code {code}; its last lines:\n" + "\n".join(last))

    def terminate(self) -> None:
        """Send SIGTERM to torchrun and return at once, because Airflow gives a task only five seconds to stop.

        Ranks die with torchrun.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        """Send SIGKILL to torchrun and its ranks, because a process that hangs in a driver ignores SIGTERM."""
        if self._process is None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):  # the rank has already died, together with torchrun
                process.kill()


def run(
    argv: list[str],
    on_line: Callable[[str], None] | None = None,
    timeouts: Timeouts | None = None,
    defaults: Mapping[str, str] = DEFAULTS,
) -> None:
    """Start torchrun and wait until it ends. An exception during the wait also ends torchrun."""
    torchrun = Torchrun(argv, on_line=on_line, timeouts=timeouts, defaults=defaults)
    torchrun.start()
    try:
        torchrun.wait()
    finally:
        torchrun.terminate()


def _die_with_parent() -> None:
    """On Linux, tell the kernel to kill torchrun when its parent dies. Call this in the child, between fork and exec.

    The signal is SIGKILL, because torchrun would turn SIGTERM into a Python exception, which is lost if it is raised in
    a destructor or a C++ callback. Ranks die with torchrun in any case.
    """
    if sys.platform.startswith("linux"):
        _LIBC.prctl(1, signal.SIGKILL)


# The C library. It is loaded before the fork, because loading a library between fork and exec can deadlock.
_LIBC = ctypes.CDLL(None)
