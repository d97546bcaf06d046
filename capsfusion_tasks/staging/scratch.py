"""Temporary folders in this machine's scratch folder. A lock on a folder shows that a process still uses it."""

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

# The names of CapsFusion's folders: a prefix for splitting shards, joining buckets, replays and uploads, or a shard_id
# for a download. Folders with other names are never deleted, because other programs may use the scratch folder, too.
_OURS = re.compile(r"(split|join|replay|upload)-\w+|[0-9a-f]{16}")

ROOM = "make room there, or set CAPSFUSION_SCRATCH to a folder on a larger disk"


@contextmanager
def temporary_folder(scratch: Path, prefix: str, what: str) -> Iterator[Path]:
    """Create a folder in ``scratch``, and delete it when the block ends.

    A SIGKILL leaves the folder behind; ``abandoned`` finds it. Raises NotReadyError if the disk is full. The message
    names ``what``, the content of the folder.
    """
    with full_disk.explained(scratch, what, ROOM):
        scratch.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=scratch, prefix=prefix) as folder, held(Path(folder)):
            yield Path(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock ``folder`` until the block or this process ends.

    Raises BlockingIOError if another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def abandoned(scratch: Path, older_than: timedelta) -> list[Path]:
    """CapsFusion's folders in ``scratch`` that no process has locked, and that have not changed for ``older_than``."""
    return [folder for folder in sorted(scratch.glob("*")) if _is_abandoned(folder, older_than)]


def _is_abandoned(folder: Path, older_than: timedelta) -> bool:
    try:
        if not _OURS.fullmatch(folder.name) or time.time() - folder.stat().st_mtime < older_than.total_seconds():
            return False
        with held(folder):
            return True
    except (BlockingIOError, FileNotFoundError):  # a process uses the folder, or has just deleted it
        return False


def size(folder: Path) -> int:
    """The disk space that the folder's files take, in bytes. Partly downloaded files take less than their length."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def remove(folder: Path) -> None:
    """Delete an abandoned folder. Does nothing if a process uses the folder now."""
    try:
        with held(folder):
            shutil.rmtree(folder)
    except (BlockingIOError, FileNotFoundError):
        return
