"""Small disks that tests can fill up or make read-only. Mounting needs root."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

_FILLER = "filler"


@cache
def why_none() -> str | None:
    """The reason why this machine cannot mount a disk, or None if it can."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    with TemporaryDirectory() as folder:
        try:
            with disk(Path(folder), 1):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            return f"mounting a small disk is not possible here: {error}"


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount an empty disk of ``megabytes`` at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "capsfusion-tests", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, capture_output=True)


def fill(folder: Path, *, leave: int = 0) -> None:
    """Fill the disk at ``folder`` until only ``leave`` bytes are free."""
    with open(folder / _FILLER, "ab", buffering=0) as filler, suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    filler.write(bytes(size))
        filler.truncate(max(0, filler.tell() - leave))


def make_room(folder: Path) -> None:
    (folder / _FILLER).unlink(missing_ok=True)


def close(folder: Path, seconds: float = 5) -> bool:
    """Make the disk read-only as soon as no file is open for writing. Returns False if files stayed open."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if subprocess.run(["mount", "-o", "remount,ro", folder], capture_output=True).returncode == 0:
            return True
        time.sleep(0.01)
    return False


def reopen(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True, capture_output=True)
