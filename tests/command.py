"""Calls ``capsfusion`` in the test's own process, with the same arguments, variables, exit codes and output.

A new process takes half a second to start, and several seconds more if it fuses. Only tests of pipes, signals and
kills need a new process (``capsfusion_process``).
"""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from capsfusion_tasks.cli import main


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def messages(self) -> str:
        """Standard error as text."""
        return self.stderr.decode()


def capsfusion(*arguments: str | Path, **variables: str) -> Ended:
    """Run the command with ``variables`` added to the environment. A traceback of ``main`` fails the test."""
    output, errors = io.BytesIO(), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch, main_undone():
        patch.setattr(sys, "argv", ["capsfusion", *map(str, arguments)])
        patch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="utf-8", write_through=True))
        patch.setattr(sys, "stderr", io.TextIOWrapper(errors, encoding="utf-8", write_through=True))
        for name, value in {"COLUMNS": "160", **variables}.items():
            patch.setenv(name, value)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        return Ended(code, output.getvalue(), errors.getvalue())


def capsfusion_process(*arguments: str | Path, **variables: str) -> Ended:
    """Start the command in a new process, with pipes for its output."""
    command = [sys.executable, "-m", "capsfusion_tasks.cli", *arguments]
    environment = {**os.environ, "COLUMNS": "160", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def main_undone() -> Iterator[None]:
    """After the block, restore the logging and signal handlers that ``main`` changed."""
    logger = logging.getLogger("capsfusion_tasks")
    before = (logger.handlers, logger.propagate, signal.getsignal(signal.SIGTERM))
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        signal.signal(signal.SIGTERM, before[2])
