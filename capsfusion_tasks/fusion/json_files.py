"""Reads the small files of a model folder. Most are JSON. A file that cannot be read causes a one-line error."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from capsfusion_tasks.errors import InputError

_LFS_POINTER = b"version https://git-lfs"


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``. Raises an InputError that names the file and the reason."""
    content = read_bytes(file)
    if content.startswith(codecs.BOM_UTF8):  # transformers also refuses a file with a byte order mark
        raise InputError(f"{file} begins with a byte order mark: save the file as UTF-8 without this mark")
    try:
        found = json.loads(content.decode())
    # ValueError: invalid JSON or UTF-8, or a number with 5,000 digits. RecursionError: 5,000 nested brackets.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}. The file may be cut off: download it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds a JSON {type(found).__name__}, not an object: download it again")
    return found


def read_bytes(file: Path) -> bytes:
    """The content of a small file. Raises InputError if it cannot be read, or is a Git LFS pointer."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    refuse_pointer(file, content)
    return content


def refuse_pointer(file: Path, start: bytes) -> None:
    """Raise InputError if ``file`` is a Git LFS pointer. ``start`` contains the first bytes of the file."""
    if start.startswith(_LFS_POINTER):
        raise InputError(f"{file} is a Git LFS pointer, not the file itself: run git lfs pull in its folder")
