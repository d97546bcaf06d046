"""Turns errors of a full or read-only disk into a NotReadyError that names the folder, so Airflow retries the task."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capsfusion_tasks.errors import NotReadyError

_FULL = {errno.ENOSPC: "no space", errno.EDQUOT: "the quota is used up"}


@contextmanager
def explained(folder: Path, what: str, mend: str = "make room there") -> Iterator[None]:
    """Raise NotReadyError if the disk is full or read-only when the block writes ``what`` to ``folder``.

    For a full disk, the message advises ``mend``. The error is not an InputError, so Airflow retries the task: somebody
    may free space meanwhile.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EROFS:
            problem, mend = f"the disk is read-only for {what} in {folder}", "mount it for writing"
        elif error.errno in _FULL:
            problem = f"{_FULL[error.errno]} for {what} in {folder} ({_free(folder)} are free)"
        else:
            raise
        raise NotReadyError(f"{problem}: {mend}, then try again; a new try continues where this one stopped") from error


def _free(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB"
