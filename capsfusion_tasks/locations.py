"""Folders and addresses that users give: ``~`` is the home folder, and a relative path becomes absolute at once.

Tasks and the command that starts them have different working folders, so paths must not depend on the working folder.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

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
    """A path or ``file://…`` as an absolute path. Any other address (``s3://…``) stays unchanged.

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
    path = target.absolute()  # "." has a name only as an absolute path
    if path.name == "..":
        path = path.resolve()
    return path.parent / f"{path.name}.parts"
