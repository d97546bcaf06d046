"""Syncs files and folders to disk, so that a later stage still finds them after a power failure."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Errors of file systems that cannot sync a folder, such as mounted object stores, which have no real folders.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP)


def sync_file(handle: int) -> None:
    """Sync the content of the open file to disk. The file's name is safe only after ``sync_folder``."""
    os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Sync the entries of ``folder`` to disk, so that new names, renames and deletions of files are permanent."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its missing parents, and sync the folders that contain new folders."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):
        sync_folder(one.parent)


@contextmanager
def replacing(target: Path, suffix: str) -> Iterator[BinaryIO]:
    """Open a new file that replaces ``target`` when the block ends. If the block raises, the new file is deleted.

    Until the block ends, the new file's name is ``.<name of target>.<random><suffix>``. Creates missing folders.
    """
    make_folder(target.parent)
    # Listings leave out names that start with a dot, so the file of a killed writer is never read as data.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=suffix)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            sync_file(stream.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# The umask tells the permissions of new files. mkstemp makes new files readable only for their owner, but workers that
# run as other users must be able to read published files.
_UMASK = _current_umask()
