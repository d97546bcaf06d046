"""Makes files and folders outlast a power failure, before the next stage relies on them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of file systems that keep no folders, as object stores do


def sync_file(handle: int) -> None:
    """Return when the content of the open file is on the disk. Its name may not be."""
    os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Return when the names in ``folder`` are on the disk: those of new, renamed and deleted files."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents where they are missing, and sync the folders that name the new ones."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        sync_folder(one.parent)
