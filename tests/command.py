"""``capsfusion`` called in the test's own process: the same arguments, variables, exit codes and output.

A process of its own takes half a second to start, and several more where it fuses. Tests of pipes, signals and kills
start one all the same.
"""

from __future__ import annotations

import io
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from capsfusion_tasks.cli import main


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: bytes
    stderr: bytes


def capsfusion(*arguments: str | Path, **variables: str) -> Done:
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
        return Done(code, output.getvalue(), errors.getvalue())


@contextmanager
def main_undone() -> Iterator[None]:
    """After the block, logging and signals are as they were before ``main`` changed them."""
    logger = logging.getLogger("capsfusion_tasks")
    before = (logger.handlers, logger.propagate, signal.getsignal(signal.SIGTERM))
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        signal.signal(signal.SIGTERM, before[2])
