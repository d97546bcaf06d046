"""Scratch space of this machine: folders that tell whether their owner still lives."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from capsfusion_tasks.staging import full_disk

# Our folders: a shard or a replay that is split, a bucket that is joined, a shard that is fetched. Other programs may
# use the scratch folder too.
_OURS = re.compile(r"(split|join|replay)-\w+|[0-9a-f]{16}")

ROOM = "make room there, or set CAPSFUSION_SCRATCH to a folder on a larger disk"


@contextmanager
def temporary_folder(scratch: Path, prefix: str, what: str) -> Iterator[Path]:
    """A folder in ``scratch`` that goes when the block ends; after a SIGKILL it stays, and ``abandoned`` finds it.

    Raises NotReadyError, which names ``what`` lies there, where the disk is full.
    """
    with full_disk.explained(scratch, what, ROOM):
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=scratch, prefix=prefix) as folder, held(Path(folder)):
            yield Path(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone, however it ends. Raises BlockingIOError where another process does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def abandoned(scratch: Path, older_than: timedelta) -> list[Path]:
    """Our folders in ``scratch`` that nobody holds and that are older than that."""
    return [folder for folder in sorted(scratch.glob("*")) if _is_abandoned(folder, older_than)]


def _is_abandoned(folder: Path, older_than: timedelta) -> bool:
    try:
        if not _OURS.fullmatch(folder.name) or time.time() - folder.stat().st_mtime < older_than.total_seconds():
            return False
        with held(folder):
            return True
    except (BlockingIOError, FileNotFoundError):  # somebody is at work there, or has just ended
        return False


def size(folder: Path) -> int:
    """Bytes that its files take on the disk, which is less than their length while they are fetched."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def remove(folder: Path) -> None:
    """Delete an abandoned folder; nothing, where somebody has begun to work there."""
    try:
        with held(folder):
            shutil.rmtree(folder)
    except (BlockingIOError, FileNotFoundError):
        return
