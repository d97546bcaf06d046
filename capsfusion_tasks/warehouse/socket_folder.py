"""A folder for the embedded server's socket. The path is short and has no characters that are special in URLs."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from capsfusion_tasks.errors import InputError

PORT = 5432  # a part of the socket's file name; the server listens on no network port
SOCKET_PATH_MAX = 103  # maximum length of a socket's path in bytes on macOS; Linux allows 107


def socket_folder(data: Path) -> Path:
    """The folder of the socket for clients: the data folder, or a short link to it.

    The path of a socket is limited to about a hundred bytes, and commas and spaces in it are special in a URL.
    Raises InputError if another file has the link's name.
    """
    if _usable(data):
        return data
    link = link_to(data)
    try:
        link.symlink_to(data, target_is_directory=True)
    except FileExistsError:
        # Every user can write to /tmp: use only a link of this user that points to the data folder.
        if link.lstat().st_uid != os.geteuid() or not link.is_symlink() or link.readlink() != data:
            raise InputError(f"{link} exists, but is not this user's link to {data}; remove {link}") from None
    return link


def link_to(data: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    # Use /tmp instead of TMPDIR, which can be long and can differ between processes of the same user.
    return Path("/tmp") / f"capsfusion-{os.geteuid()}-{digest}"  # noqa: S108


def _usable(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_MAX and re.fullmatch(rb"[\w./+-]+", path) is not None
