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
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.failures import system_error, system_errors
from capsfusion_tasks.shards.patterns import is_hidden
from capsfusion_tasks.shards.source import SourceFile, Unreadable


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
        # List each folder only once, and follow links last. Otherwise a link to a parent folder would cause an endless
        # loop, and a link latest → v3 would list all files of v3 twice.
        folders, links, visited = [""], list[str](), set[tuple[int, int]]()
        while folders or links:
            path = folders.pop() if folders else links.pop(0)
            try:
                status = os.stat(self._folder / path)
                inode = (status.st_dev, status.st_ino)
                if inode in visited:
                    continue
                visited.add(inode)
                with os.scandir(self._folder / path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                removed = isinstance(error, FileNotFoundError)  # the folder was deleted after its parent was listed
                if not removed and os.path.basename(path.rstrip("/")) != "lost+found":  # only root can read this folder
                    yield self._unreadable(path, error)
                continue
            for entry in entries:
                below = path + entry.name
                # Do not list a hidden folder. A link with another name may still lead to it.
                if is_hidden(entry.name):
                    wanted(below)  # this call counts the hidden file; if the list is empty, the count explains why
                    continue
                try:
                    status = entry.stat()
                except OSError as error:
                    dead_link = isinstance(error, FileNotFoundError) and entry.is_symlink()
                    gone = isinstance(error, FileNotFoundError) and not dead_link
                    # Report every link that cannot be followed, because it may lead to a folder of shards.
                    if not gone and (wanted(below) or entry.is_symlink() or entry.is_dir(follow_symlinks=False)):
                        yield self._unreadable(below, error, dead_link)
                    continue
                if stat.S_ISDIR(status.st_mode):
                    (links if entry.is_symlink() else folders).append(f"{below}/")
                elif wanted(below) and stat.S_ISREG(status.st_mode):
                    yield self._describe(below, status)

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        file = self._folder / shard.path
        if not file.is_file():
            raise InputError(
                f"{file} is gone: put it back with its old modification time. With a new time, it counts as a new shard"
            )
        found = self._describe(shard.path, file.stat())
        if isinstance(found, Unreadable) or found.etag != shard.etag:
            raise InputError(
                f"{file} has changed since it was discovered: it counts as a new shard with its new modification time"
            )
        # Not memory-mapped, because truncating the file while it is read would kill the process.
        with pa.OSFile(str(file)) as stream:
            yield stream

    def _describe(self, path: str, status: os.stat_result) -> SourceFile | Unreadable:
        try:
            arrived = datetime.fromtimestamp(status.st_mtime, UTC)
        except (ValueError, OverflowError, OSError):
            when = f"{status.st_mtime:.0f} seconds after 1970"
            return Unreadable(
                path,
                f"{self._folder / path} has the time {when}, which is outside the years 1 to 9999: set a new time with"
                " `touch`",
            )
        return SourceFile(path, f"{status.st_size:x}-{status.st_mtime_ns:x}", status.st_size, arrived)

    def _unreadable(self, path: str, error: OSError, dead_link: bool = False) -> Unreadable:
        file = self._folder / path
        if dead_link:
            return Unreadable(path, f"{file} is a dead link: restore its target, or remove the link")
        return Unreadable(path, str(system_error(f"cannot read {file}", error)))
