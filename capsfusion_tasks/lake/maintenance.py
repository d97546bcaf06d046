"""Maintenance of the Iceberg table: puts small files together, and removes old snapshots with their files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from pyiceberg.table import Table

MIN_FILES = 8  # of a partition, to be rewritten


@dataclass
class Maintained:
    """What maintenance did."""

    partitions: int = 0
    snapshots: int = 0
    files: int = 0


def compact(table: Table, *, min_files: int = MIN_FILES, say: Callable[[str], None] = print) -> int:
    """Rewrite each partition of at least ``min_files`` files, sorted by pair_id. Returns how many.

    A partition, one day of one fusion, is held in memory. Its rows stay the same; old snapshots keep the old files.
    """
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan

    done = 0
    for partition in table.inspect.partitions().to_pylist():
        key, files = partition["partition"], partition["file_count"]
        if files < min_files:
            continue
        start = datetime.combine(key["loaded_day"], time(), UTC)
        of_day = And(
            EqualTo("fusion_id", key["fusion_id"]),
            GreaterThanOrEqual("loaded_at", start.isoformat()),
            LessThan("loaded_at", (start + timedelta(days=1)).isoformat()),
        )
        rows = table.scan(row_filter=of_day).to_arrow()
        if rows.num_rows != partition["record_count"]:
            raise InputError(
                f"partition {key} has {rows.num_rows} rows, its files have {partition['record_count']}: left as it is"
            )
        table.overwrite(
            rows.sort_by("pair_id"), overwrite_filter=of_day, snapshot_properties={"capsfusion.compacted": "1"}
        )
        say(f"lake: {key['fusion_id']} of {key['loaded_day']}: {files} files put together, {rows.num_rows} captions")
        done += 1
    return done


def expire(table: Table, *, before: datetime) -> tuple[int, int]:
    """Remove snapshots from before that time, and files that only they have. Returns the numbers of both.

    The current snapshot stays. If the process dies while it deletes files, the rest stays on the disk, unused.
    """
    old = {snapshot.snapshot_id for snapshot in table.snapshots() if snapshot.timestamp_ms < before.timestamp() * 1000}
    current = table.current_snapshot()
    if not old - {current.snapshot_id if current else None}:
        return 0, 0
    had, snapshots = _files(table), len(table.snapshots())
    table.maintenance.expire_snapshots().older_than(before).commit()
    table.refresh()
    unused = had - _files(table)
    for file in sorted(unused):
        table.io.delete(file)
    return snapshots - len(table.snapshots()), len(unused)


def _files(table: Table) -> set[str]:
    """Data files, manifests and manifest lists of all snapshots."""
    return {
        *table.inspect.all_files()["file_path"].to_pylist(),
        *table.inspect.all_manifests()["path"].to_pylist(),
        *(snapshot.manifest_list for snapshot in table.snapshots()),
    }
