"""Runs ranks as threads of this process, without torchrun. Fusing a unit then takes 0.1 seconds instead of 6.

Used by tests of stages, files and replays, which need captions but no processes.
``python -m tests.one_process run …`` is ``capsfusion run …`` with ranks as threads.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed
from capsfusion_tasks.fusion import files, launcher
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.pairs_input import write_pieces
from capsfusion_tasks.staging.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[1]
FUSION_LOG = logging.getLogger("capsfusion_tasks.fusion")


@contextmanager
def ranks_in_one_process() -> Iterator[None]:
    """Within the block, this process runs ranks as threads. Other processes still start torchrun."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (launcher, files):
            patch.setattr(module, "Torchrun", RankThreads)
        yield


def start(command: Sequence[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``capsfusion`` in a new process, with its ranks as threads. For tests that kill it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.one_process", *command],
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


class RankThreads:
    """Replaces ``launcher.Torchrun``: takes the same arguments, prints the same lines and raises the same errors.

    Each rank runs the worker's ``fuse_rows`` with a store in memory. Not covered: the worker's ``main``, exit codes,
    signals, the environment, and ranks that hang. A rank that fails does not end the others, so a test in which a rank
    fails must have one rank only.
    """

    def __init__(self, argv: list[str], on_line: Callable[[str], None] = print, **_: Any) -> None:
        self._job = FuseJob.model_validate_json(argv[-1])
        self._ranks = int(argv[argv.index("--nproc-per-node") + 1])
        self._on_line = on_line
        # What ranks send: a line, an error, or None when a rank has ended.
        self._said: queue.Queue[str | Exception | None] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._terminated = False

    def start(self) -> None:
        from torch.distributed import HashStore  # imported late, because torch takes two seconds

        store = HashStore()
        for rank in range(self._ranks):
            thread = threading.Thread(target=self._fuse, args=(store, rank), name=f"rank {rank}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _fuse(self, store: Any, rank: int) -> None:
        from capsfusion_tasks.fusion.worker import fuse_rows

        try:
            # With as many local ranks as cores, each rank computes with one thread.
            fuse_rows(self._job, store, rank, rank, len(os.sched_getaffinity(0)))
        except Exception as error:  # ``wait`` re-raises this error
            self._said.put(error)
        self._said.put(None)

    def wait(self) -> None:
        with _log_lines(self._said, {thread.name for thread in self._threads}):
            running = self._ranks
            while running:
                said = self._said.get()
                if isinstance(said, InputError | NotReadyError):
                    raise said
                if isinstance(said, Exception):
                    raise TorchrunFailed(f"a rank failed: {said!r}") from said
                if said is None:
                    running -= 1
                else:
                    self._on_line(said)
        for thread in self._threads:
            thread.join()
        if self._terminated:
            raise TorchrunFailed("the ranks were terminated")

    def terminate(self) -> None:
        """End the ranks that wait for pairs, by writing that no more pairs follow. Threads cannot be killed."""
        if self._job.piece_rows and any(thread.is_alive() for thread in self._threads):
            self._terminated = True
            write_pieces(Storage(self._job.staging), self._job.pairs, [])


class _Lines(logging.Handler):
    def __init__(self, said: queue.Queue[Any], ranks: set[str]) -> None:
        super().__init__()
        self._said, self._of_ranks = said, ranks

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName in self._of_ranks:
            self._said.put(f"{record.threadName}: {record.getMessage()}")


@contextmanager
def _log_lines(said: queue.Queue[Any], ranks: set[str]) -> Iterator[None]:
    """Within the block, put the log messages of ranks into ``said``, formatted as a worker prints them."""
    handler, level = _Lines(said, ranks), FUSION_LOG.level
    FUSION_LOG.addHandler(handler)
    FUSION_LOG.setLevel(logging.INFO)
    try:
        yield
    finally:
        FUSION_LOG.removeHandler(handler)
        FUSION_LOG.setLevel(level)


if __name__ == "__main__":
    from capsfusion_tasks.cli import main

    with ranks_in_one_process():
        main()
