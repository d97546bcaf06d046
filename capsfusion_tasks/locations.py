"""Makes folders and addresses that users give absolute, and lists the files in a folder.

``~`` is the home folder, and a relative path becomes absolute at once. Tasks and the command that starts them have
different working folders, so paths must not depend on the working folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_LACKS_SLASHES = re.compile(r"(s3|gs|gcs|az|abfss?|hf|https?|file):(?!//)", re.IGNORECASE)


def absolute_path(path: str | Path) -> Path:
    """``path`` as an absolute path. Raises ValueError if it is empty or if ``~`` cannot be expanded."""
    if not str(path):
        raise ValueError("it is empty; give a path")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # no HOME and no entry in /etc/passwd, or ~name of an unknown user
        raise ValueError(f"this system has no such home folder ({error}); write the path in full") from error


def absolute_location(location: str) -> str:
    """A path or ``file://…`` as an absolute path. Any other address (``s3://…``) only gets a lower-case scheme.

    Raises ValueError like ``absolute_path``, and for an address without ``//``.
    """
    if _LACKS_SLASHES.match(location):
        scheme, _, rest = location.partition(":")
        raise ValueError(
            f"there is no // after {scheme}:; write {scheme}://{rest.lstrip('/')}, or ./{location} for a folder"
        )
    scheme, separator, path = location.partition("://")
    if separator and scheme.lower() != "file":
        return f"{scheme.lower()}://{path}"
    return str(absolute_path(path if separator else location))


def absolute_model(model: str) -> str:
    """A model's folder as an absolute path. A name that is no local folder counts as a hub id and stays unchanged."""
    if model.startswith(("~", ".", "/")) or os.path.isdir(model):
        return str(absolute_path(model))
    if not model:
        raise ValueError("it is empty; give a folder or a hub id")
    return model


def parts_path(target: Path) -> Path:
    """The folder ``<OUT>.parts`` with the finished rows of ``capsfusion fuse``. ``target``: the argument OUT."""
    path = target.absolute()  # because the name of Path(".") is empty
    if path.name == "..":
        path = path.resolve()
    return path.parent / f"{path.name}.parts"


def is_hidden(path: str) -> bool:
    """Whether the file or a folder in ``path`` has a name that begins with "." or "_".

    Hadoop and many copying tools use such names for unfinished files. If ``path`` is a whole web address, only the
    file's name counts, because the folders in the address are not folders of the data source.
    """
    parts = path.rpartition("/")[2:] if path.startswith(("http://", "https://")) else path.split("/")
    return any(part.startswith((".", "_")) for part in parts)


class Met(NamedTuple):
    """A file that ``walk`` found, or a folder that it could not list. ``path``: relative to the walked folder.

    ``status``: the file's status, or an error. There is an error if a file cannot be reached (for example, through a
    dead link), or if a folder cannot be listed.
    """

    path: str
    status: os.stat_result | OSError
    entry: os.DirEntry[str] | None = None  # None for a folder that cannot be listed


def walk(folder: Path, leave_out: Callable[[str, os.DirEntry[str]], bool]) -> Iterator[Met]:
    """All files at any depth below ``folder``. Follows links to folders.

    ``leave_out`` returns whether to skip a file or folder. Its arguments: the path below ``folder``, and the entry.
    """
    # List each folder only once, and follow links last. Otherwise a link to a parent folder would cause an endless
    # loop, and a link latest → v3 would list all files of v3 twice.
    folders, links, visited = [""], list[str](), set[tuple[int, int]]()
    while folders or links:
        path = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(folder / path)
            inode = (status.st_dev, status.st_ino)
            if inode in visited:
                continue
            visited.add(inode)
            with os.scandir(folder / path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield Met(path, error)
            continue
        for entry in entries:
            below = path + entry.name
            if leave_out(below, entry):
                continue
            try:
                status = entry.stat()
            except OSError as error:
                yield Met(below, error, entry)
                continue
            if stat.S_ISDIR(status.st_mode):
                (links if entry.is_symlink() else folders).append(f"{below}/")
            else:
                yield Met(below, status, entry)
