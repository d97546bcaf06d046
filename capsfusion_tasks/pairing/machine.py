"""Finds out how much memory this machine or container has."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def available_memory() -> int:
    """Bytes of memory that this machine or container has."""
    try:
        limit = int(_CGROUP.read_text())
    except (OSError, ValueError):  # the file is missing, or contains "max", which means no limit
        limit = sys.maxsize
    return min(limit, int(psutil.virtual_memory().total))
