"""The folder ``<OUT>.parts`` of ``capsfusion fuse``: keeps finished rows until the result OUT is written.

Only one process at a time can use the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.locations import parts_path

_LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of network file systems without locks


@contextmanager
def parts_folder(target: Path) -> Iterator[Path]:
    """The ``.parts`` folder of ``target``, locked by this process. After an error, its files stay for a retry.

    Raises NotReadyError if another process has locked the folder.
    """
    folder = parts_path(target)
    with _locked(folder, target):
        try:
            yield folder
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # a folder with finished rows is not empty, so it stays
                folder.rmdir()


def empty(folder: Path) -> None:
    """Delete all files of ``folder`` except its lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


@contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    while (lock := _lock(folder, target)) is None:
        pass  # try again, because another process has just deleted the folder or its lock
    with lock:
        yield


def _lock(folder: Path, target: Path) -> TextIO | None:
    """Lock ``folder`` and return its lock file. None if another process deletes one of the two meanwhile."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(_open(folder))
            _flock(lock, target)
            # Another process may have deleted the lock file before this process locked it. A lock on a deleted file
            # protects nothing.
            if os.fstat(lock.fileno()).st_ino != (folder / _LOCK).stat().st_ino:
                return None
        except FileNotFoundError:
            return None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        stack.pop_all()  # keep the file open
        return lock


def _flock(lock: TextIO, target: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NotReadyError(
            f"another capsfusion fuse (process {lock.read().strip()}) is writing {target}: wait until it has ended, or"
            " choose another OUT"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _open(folder: Path) -> TextIO:
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} must be a folder for finished rows, but is a file: move it away") from None
    except PermissionError as error:  # OUT can be writable although the folder that contains it is not
        raise InputError(f"cannot write finished rows to {folder}: {error.strerror}; choose another OUT") from error
    lock = (folder / _LOCK).open("a+")
    lock.seek(0)
    return lock
