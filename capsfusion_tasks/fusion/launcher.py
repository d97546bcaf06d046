"""Starts torchrun for a job, and stops it with all its ranks. Airflow tasks import this module; it imports no torch."""

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
from itertools import takewhile
from pathlib import Path
from typing import IO, Literal

import psutil

from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.watchdog import Timeouts, Watchdog
from capsfusion_tasks.settings import Settings

# A rank prints its InputErrors and NotReadyErrors with this mark. The process that started torchrun raises them again.
INPUT_ERROR_MARK = "capsfusion input error: "
NOT_READY_MARK = "capsfusion not ready: "
STARTED_BY = "TORCHRUN_STARTED_BY"  # variable of the ranks: id of the process that started torchrun
_MARKED = {INPUT_ERROR_MARK: InputError, NOT_READY_MARK: NotReadyError}
_LAST_LINES = 30
_WATCH_SECONDS = 1.0
# The line in which torchrun names the failed rank. Pages of torchrun's own traceback follow it.
_RANK_FAILED = re.compile(r".*torch/distributed/elastic/.*failed \(exitcode: ")
# OpenMP threads spin while they wait for each other. By default they spin for so long that two jobs on one CPU are
# seven times slower. With this many turns, two jobs have half the speed each, and a single job is not slower.
_DEFAULTS = {"GOMP_SPINCOUNT": "2000"}
# Variables of other launchers, which are set in Kubeflow's pods and in processes that another torchrun started.
# torchrun would take PET_* as its own arguments, and PYTHON_EXEC as the program of its ranks. LOGLEVEL=info, which many
# images set, ends torchrun with a traceback, because Python's levels are upper-case. The last two lines are variables
# of torch's compilers, which fuse tasks never use; of its sanitizer, which fails on the engine; and of the thresholds
# below which a CPU multiplies matrices with another library. Most must be numbers. With other values torch ends with a
# traceback, or every row fails.
_NOT_FOR_TORCHRUN = re.compile(
    r"PET_.*|TORCH_?ELASTIC_.*|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|PYTHON_EXEC"
    r"|LOGLEVEL"
    r"|TORCH_?(INDUCTOR|DYNAMO|COMPILE|COMPILER)_.*|(AOT_?INDUCTOR|AOT|COMPILE_STROBELIGHT|PYTORCH_JIT)_.*|PYTORCH_JIT"
    r"|PYTORCH_MATCHER_LOGLEVEL|TORCH_CUDA_SANITIZER|TORCH_MKLDNN_MATMUL_MIN_(DIM|SIZE)|TORCH_PYTHON_NATIVE_.*"
)
# The number that OpenMP accepts; after a comma come the numbers for nested levels.
_THREADS = re.compile(r"\s*0*[1-9]\d{0,3}\s*(,.*)?")


def environment_defaults(settings: Settings) -> dict[str, str]:
    """Variables for torchrun if the environment does not set them: ``Torchrun(defaults=…)``."""
    cores = len(os.sched_getaffinity(0))
    environment = {
        **_DEFAULTS,
        # Otherwise torchrun sets it to one thread for each of several ranks.
        "OMP_NUM_THREADS": str(max(1, cores // rank_count(settings.nproc_per_node))),
    }
    if _is_writable(settings.home):
        # A folder that outlives the container, so that the next task finds the compiled kernels.
        environment["TRITON_CACHE_DIR"] = str(settings.home / "triton")
    return environment


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in ``folder``, or the folder itself if it is missing."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def torchrun_environment(defaults: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables of other launchers, with ``defaults`` for what it does not set."""
    kept = {name: value for name, value in environment.items() if not _NOT_FOR_TORCHRUN.fullmatch(name)}
    if not kept.get("TORCH_LOGS"):  # torch fails on an empty value, as compose files set
        kept.pop("TORCH_LOGS", None)
    if not _THREADS.fullmatch(kept.get("OMP_NUM_THREADS", "")):
        kept.pop("OMP_NUM_THREADS", None)
    return {**defaults, **kept, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


def torchrun_argv(job: FuseJob, nproc_per_node: Literal["auto"] | int) -> list[str]:
    """The command that fuses ``job`` on this node."""
    return [
        *(sys.executable, "-m", "capsfusion_tasks.fusion.torchrun", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nnodes", "1", "--nproc-per-node", str(rank_count(nproc_per_node)), "--max-restarts", "0"),
        # Ranks print their errors themselves. A killed torchrun would leave its log folder behind.
        *("--log-dir", os.devnull),
        *("-m", "capsfusion_tasks.fusion.worker", job.model_dump_json()),
    ]


def rank_count(nproc_per_node: Literal["auto"] | int) -> int:
    """Ranks to start on this node: for auto one per GPU, or one on the CPU."""
    return gpu_count() or 1 if nproc_per_node == "auto" else nproc_per_node


def gpu_count() -> int:
    """Number of GPUs that this process may use. Does not import torch, because CUDA would occupy the GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA ends its list at the first -1.
        return len([*takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(",")))])
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


class Torchrun:
    """One torchrun process: start, wait, terminate. ``on_line`` gets its output, line by line.

    If a rank makes no progress for longer than ``timeouts``, all ranks are ended. ``defaults``: variables that torchrun
    gets if the environment does not set them.
    """

    def __init__(
        self,
        argv: list[str],
        on_line: Callable[[str], None] | None = None,
        timeouts: Timeouts | None = None,
        defaults: Mapping[str, str] = _DEFAULTS,
    ) -> None:
        self._argv = argv
        self._env = torchrun_environment(defaults, os.environ)
        self._on_line = on_line or print
        self._timeouts = timeouts or Timeouts()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()  # None: the output has ended

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
        """Pass on output until torchrun has ended.

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
                # All ranks have the same error. torchrun would only add a page of tracebacks.
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
        """Send SIGTERM to torchrun and return at once, because Airflow kills the caller five seconds later.

        Ranks die with torchrun.
        """
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _kill(self) -> None:
        """Send SIGKILL to torchrun and its ranks: a process that hangs in a driver does not react to SIGTERM."""
        if self._process is None:
            return
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):  # expected: ranks die with torchrun
                process.kill()


def run(
    argv: list[str],
    on_line: Callable[[str], None] | None = None,
    timeouts: Timeouts | None = None,
    defaults: Mapping[str, str] = _DEFAULTS,
) -> None:
    """Start torchrun and wait until it ends. An exception while waiting ends torchrun."""
    torchrun = Torchrun(argv, on_line=on_line, timeouts=timeouts, defaults=defaults)
    torchrun.start()
    try:
        torchrun.wait()
    finally:
        torchrun.terminate()


def _die_with_parent() -> None:
    """Runs in the child between fork and exec: the kernel kills torchrun when its parent dies (Linux).

    Not SIGTERM: torchrun turns it into a Python exception, which is lost if it is raised in a destructor or a C++
    callback. Ranks die with torchrun in any case.
    """
    if sys.platform.startswith("linux"):
        _LIBC.prctl(1, signal.SIGKILL)


# Loaded before the fork, because loading a library between fork and exec can deadlock.
_LIBC = ctypes.CDLL(None)
