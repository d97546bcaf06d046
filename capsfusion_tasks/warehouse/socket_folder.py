"""Where clients find the embedded server's socket: a path that is short, and means nothing else in a URL."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from capsfusion_tasks.errors import InputError

PORT = 5432  # names the socket only: the server listens on no network address
SOCKET_PATH_MAX = 103  # bytes; what macOS allows, Linux has 107


def socket_folder(data: Path) -> Path:
    """The folder of the socket as clients name it: the data folder, or a short link to it.

    A socket's path is limited to a hundred bytes or so, and a comma or a space in it means something in a URL.
    """
    if _usable(data):
        return data
    link = link_to(data)
    try:
        link.symlink_to(data, target_is_directory=True)
    except FileExistsError:
        # Anybody may write to the temporary folder: trust only what is ours and leads where it should.
        if link.lstat().st_uid != os.geteuid() or not link.is_symlink() or link.readlink() != data:
            raise InputError(f"{link} is in the way: expected a link of ours to {data}; remove it") from None
    return link


def link_to(data: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    # Not TMPDIR: it can be long itself, and another process of ours may have another one.
    return Path("/tmp") / f"capsfusion-{os.geteuid()}-{digest}"  # noqa: S108


def _usable(folder: Path) -> bool:
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_MAX and re.fullmatch(rb"[\w./+-]+", path) is not None
