"""A ceiling on memory while a shard is decoded: a Parquet file of five kilobytes can inflate to terabytes."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from capsfusion_tasks.errors import InputError

_MOST = 8 << 30  # bytes; a shard of usual captions takes a tenth of it
_CGROUP = Path("/sys/fs/cgroup/memory.max")

_lock = threading.Lock()
_inside = 0
_before = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@contextmanager
def memory_ceiling(where: str) -> Iterator[None]:
    """In the block this process may take 8 GiB more than it has, or half of what the machine lets it have.

    Beyond that memory is refused, by the process's own limit, and the block ends with InputError naming ``where``:
    otherwise the system would kill the process, and others with it. The limit is the whole process's, so of several
    blocks at a time, in threads, the first sets it; no process may be started meanwhile, it would inherit the limit.
    """
    extra = min(_MOST, _available() // 2)
    _enter(extra)
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{where} inflates to more than {extra / (1 << 30):.1f} GiB in memory, as no file of captions does: "
            "replace it; the new file is a new shard"
        ) from error
    finally:
        _leave()


def _available() -> int:
    try:
        limit = int(_CGROUP.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        limit = sys.maxsize
    return min(limit, int(psutil.virtual_memory().total))


def _enter(extra: int) -> None:
    global _inside, _before
    with _lock:
        if not _inside:
            _before = soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            allowed = psutil.Process().memory_info().vms + extra
            if soft == resource.RLIM_INFINITY or allowed < soft:
                resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if not _inside:
            resource.setrlimit(resource.RLIMIT_AS, _before)
