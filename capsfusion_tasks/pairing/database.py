"""Opens DuckDB with limits on memory and cores, and a scratch folder for data that do not fit in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.pairing.machine import available_memory
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.scratch import ROOM, temporary_folder

# Number of joins that a pair task runs at the same time, so that one reads while another computes and a third writes.
JOINS_AT_ONCE = 3
_MOST_MEMORY = 6 << 30


def join_memory(settings: Settings) -> int:
    """Bytes of memory for each of the joins that a pair task runs at the same time."""
    if settings.pair_memory == "auto":
        return min(_MOST_MEMORY, available_memory() // 4) // JOINS_AT_ONCE
    return settings.pair_memory * 1_000_000 // JOINS_AT_ONCE


class DoesNotFit(NotReadyError):
    """Data, such as the rows of a join, fit neither in DuckDB's memory limit nor on the scratch disk."""


@contextmanager
def database(settings: Settings, what: str = "the rows of a join") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB with the memory limit ``join_memory``. Data that do not fit go to a scratch folder.

    Raises DoesNotFit if the data, which ``what`` names, fit neither in memory nor on scratch disk.
    """
    limits: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{join_memory(settings)}B",
        "threads": -(-len(os.sched_getaffinity(0)) // JOINS_AT_ONCE),
        "preserve_insertion_order": False,
    }
    with (
        temporary_folder(settings.scratch_folder, "join-", what) as folder,
        duckdb.connect(config={"temp_directory": str(folder), **limits}) as connection,
    ):
        try:
            yield connection
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            said = str(error).splitlines()[0]
            raise DoesNotFit(f"{what} fit neither in memory nor in {folder.parent}: {said}; {ROOM}") from error
