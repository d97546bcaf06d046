"""Digests of whole files. A cache keeps each digest, because reading the 26 GB of a 13B model's weights takes long."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.staging.durable import replacing

log = logging.getLogger(__name__)

_THREADS = 8  # number of files that are hashed in parallel; hashing releases the interpreter's lock
_TOLD_BYTES = 1 << 30


def content_digests(files: Iterable[Path], cache: Path) -> dict[Path, str]:
    """The BLAKE2b digest of each file's bytes, as hex.

    ``cache`` is a JSON file. A cached digest is valid while the file's path, size, times and inode are unchanged. If
    the cache cannot be written, logs a warning, and the next process reads all files again. Raises NotReadyError for a
    file that cannot be read.
    """
    known = _known(cache)
    states = {file.resolve(): _state(file) for file in files}
    missing = [file for file, state in states.items() if known.get(str(file), ["", ""])[:-1] != state]
    if (size := sum(states[file][0] for file in missing)) > _TOLD_BYTES:
        log.info("computing digests of %.1f GB of weights; this is done once for each new file", size / 1e9)
    with ThreadPoolExecutor(_THREADS) as threads:
        made = dict(zip(missing, threads.map(_digest, missing), strict=True))
    if made:
        _keep(cache, {str(file): [*states[file], digest] for file, digest in made.items()})
    return {file: made.get(file.resolve()) or known[str(file.resolve())][-1] for file in files}


def _known(cache: Path) -> dict[str, list[Any]]:
    """The digests in ``cache``. Empty if ``cache`` is missing, damaged or not readable."""
    try:
        found = json.loads(cache.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {file: entry for file, entry in entries if isinstance(entry, list) and entry and isinstance(entry[-1], str)}


def _keep(cache: Path, made: dict[str, list[Any]]) -> None:
    """Add the new digests ``made`` to the file ``cache``.

    Reads the file again, because other processes, also on other machines, may have written it meanwhile. If two
    processes write at the same moment, the entries of one process are lost. The next process computes these digests
    again.
    """
    try:
        with replacing(cache, ".tmp") as stream:
            stream.write(json.dumps(_known(cache) | made).encode())
    except OSError as error:
        log.warning(
            "cannot keep the digests of the weights in %s (%s): each command and task computes them again; set"
            " CAPSFUSION_HOME to a writable folder",
            cache,
            error.strerror,
        )


def _state(file: Path) -> list[int]:
    """Values that change when a file is written or replaced, even within a second and with the same size."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:  # check_whole has opened the file before, so this error may be temporary
        raise NotReadyError(f"cannot read {file} now: {error.strerror}; try again") from error
