"""Shards in a folder, on a disk or on a file system that the workers share."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.locations import is_hidden, walk
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.failures import system_error, system_errors
from capsfusion_tasks.shards.source import SourceFile, Unreadable


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


class _Unchanged(pa.OSFile):  # type: ignore[misc]
    """An open file. If the file is overwritten in place, reads fail instead of returning a mix of old and new bytes.

    If another file is renamed to this file's path, reads still return the bytes of the file that was opened.
    """

    file: Path
    etag: str

    def check(self) -> None:
        if _etag(os.fstat(self.fileno())) != self.etag:
            raise InputError(
                f"{self.file} has changed since it was discovered: the new file counts as a new shard of the interval"
                " in which it arrived"
            )

    def read_at(self, nbytes: int, offset: int) -> bytes:
        content: bytes = super().read_at(nbytes, offset)
        self.check()  # after the read, because the file may change during it
        return content


class LocalSource:
    """Files at any depth below a folder; links to folders are followed.

    A file's arrival time is its modification time.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(os.path.expanduser(folder)).absolute()
        self.uri = str(self._folder)

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        with system_errors(f"cannot list {self.uri}"):
            if self._folder.is_file():
                raise InputError(
                    f"{self.uri} is a file: name its folder, and put the file's name into CAPSFUSION_…_INCLUDE"
                )
            if not self._folder.is_dir():
                raise InputError(f"no folder {self.uri}: name the folder that has the files")
            os.listdir(self._folder)

        def leave_out(path: str, entry: os.DirEntry[str]) -> bool:
            # Leave out hidden files and folders. But follow a link to a hidden folder if the link's name is not hidden.
            if is_hidden(entry.name):
                wanted(path)  # this call counts the hidden file; if no shard is found, a message gives the count
                return True
            return False

        for path, status, entry in walk(self._folder, leave_out):
            if isinstance(status, OSError):
                if problem := self._problem(path, status, entry, wanted):
                    yield problem
            elif wanted(path) and stat.S_ISREG(status.st_mode):
                yield self._describe(path, status)

    def _problem(
        self, path: str, error: OSError, entry: os.DirEntry[str] | None, wanted: Callable[[str], bool]
    ) -> Unreadable | None:
        """Describe a file or folder that cannot be read. None if it was deleted meanwhile, or is no shard."""
        gone = isinstance(error, FileNotFoundError)
        if entry is None:
            # Do not report the folder lost+found, which only root can read.
            return None if gone or os.path.basename(path.rstrip("/")) == "lost+found" else self._unreadable(path, error)
        dead_link = gone and entry.is_symlink()
        if gone and not dead_link:
            return None
        # Report every link that cannot be followed, because it may lead to a folder of shards.
        if wanted(path) or entry.is_symlink() or entry.is_dir(follow_symlinks=False):
            return self._unreadable(path, error, dead_link)
        return None

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        file = self._folder / shard.path
        if not file.is_file():
            raise InputError(
                f"{file} is gone: put it back with its old modification time. With a new time, it counts as a new shard"
            )
        # Not memory-mapped, because truncating the file while it is read would kill the process.
        with _Unchanged(str(file)) as stream:
            stream.file, stream.etag = file, shard.etag
            stream.check()
            yield stream

    def _describe(self, path: str, status: os.stat_result) -> SourceFile | Unreadable:
        try:
            arrived = datetime.fromtimestamp(status.st_mtime, UTC)
        except (ValueError, OverflowError, OSError):
            when = f"{status.st_mtime:.0f} seconds after 1970"
            return Unreadable(
                path,
                f"{self._folder / path} has the modification time {when}, which is outside the years 1 to 9999: set a"
                " new time with `touch`",
            )
        return SourceFile(path, _etag(status), status.st_size, arrived)

    def _unreadable(self, path: str, error: OSError, dead_link: bool = False) -> Unreadable:
        file = self._folder / path
        if dead_link:
            return Unreadable(path, f"{file} is a dead link: restore its target, or remove the link")
        return Unreadable(path, str(system_error(f"cannot read {file}", error)))
