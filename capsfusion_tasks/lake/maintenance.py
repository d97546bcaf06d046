"""Maintenance of the Iceberg table: merges small files, and removes old snapshots with their files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from capsfusion_tasks.errors import InputError

if TYPE_CHECKING:
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.table import FileScanTask, Table
    from pyiceberg.table.snapshots import Snapshot

MIN_FILES = 8  # a partition with at least this many small files is rewritten
# Files below this limit (in bytes) are small. A rewrite makes files of about 100 MB, which are above the limit.
SMALL = 32 << 20


@dataclass
class Maintained:
    """Numbers of rewritten partitions, removed snapshots and removed files."""

    partitions: int = 0
    snapshots: int = 0
    files: int = 0


def compact(table: Table, *, min_files: int = MIN_FILES, say: Callable[[str], None] = print) -> int:
    """Rewrite each partition that has at least ``min_files`` small files. The new files are sorted by pair_id.

    A partition has the rows of one fusion (model and settings) that were loaded on one day. Memory must hold one
    partition at a time. The rows stay the same, and old snapshots keep the old files. Skips partitions from which
    another program has deleted rows. Also skips files that were written before the table's partitioning was changed.
    Returns the number of rewritten partitions.
    """
    from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan

    if [field.name for field in table.spec().fields] != ["fusion_id", "loaded_day"]:
        say("lake: the table's partitioning was changed, so its files are not merged")
        return 0
    done = 0
    for (fusion_id, day), tasks in _partitions(table).items():
        small = sum(task.file.file_size_in_bytes < SMALL for task in tasks)
        if small < min_files or any(task.delete_files for task in tasks):
            continue
        start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
        of_day = And(
            EqualTo("fusion_id", fusion_id),
            GreaterThanOrEqual("loaded_at", start.isoformat()),
            LessThan("loaded_at", (start + timedelta(days=1)).isoformat()),
        )
        rows = table.scan(row_filter=of_day).to_arrow()
        expected = sum(task.file.record_count for task in tasks)
        if rows.num_rows != expected:
            raise InputError(
                f"did not merge the files of fusion {fusion_id}, day {start:%Y-%m-%d}: {rows.num_rows} rows were read"
                f" from them, but the table's metadata says {expected}. These files were not changed"
            )
        table.overwrite(
            rows.sort_by("pair_id"), overwrite_filter=of_day, snapshot_properties={"capsfusion.compacted": "1"}
        )
        say(f"lake: fusion {fusion_id}, day {start:%Y-%m-%d}: {len(tasks)} files merged, {rows.num_rows} captions")
        done += 1
    return done


def expire(table: Table, *, before: datetime) -> tuple[int, int]:
    """Remove snapshots older than ``before``, and files that no remaining snapshot uses.

    Keeps the current snapshot and snapshots that a branch or a tag names. If the process dies while it deletes files,
    some unused files remain. Returns the number of removed snapshots and the number of removed files.
    """
    named = {reference.snapshot_id for reference in table.refs().values()}
    oldest = before.timestamp() * 1000
    if all(one.timestamp_ms >= oldest or one.snapshot_id in named for one in table.snapshots()):
        return 0, 0
    had = {snapshot.snapshot_id: snapshot for snapshot in table.snapshots()}
    table.maintenance.expire_snapshots().older_than(before).commit()
    table.refresh()
    kept = table.snapshots()
    removed = [had[number] for number in had.keys() - {snapshot.snapshot_id for snapshot in kept}]
    unused = _files(table, removed) - _files(table, kept)
    for file in sorted(unused):
        table.io.delete(file)
    return len(removed), len(unused)


def _partitions(table: Table) -> dict[tuple[str, int], list[FileScanTask]]:
    """The table's data files by partition (fusion_id, days since 1970).

    Leaves out files that were written before the table's partitioning was changed.
    """
    found: dict[tuple[str, int], list[FileScanTask]] = defaultdict(list)
    for task in table.scan().plan_files():
        if task.file.spec_id == table.spec().spec_id:
            found[task.file.partition[0], task.file.partition[1]].append(task)
    return found


def _files(table: Table, snapshots: Sequence[Snapshot]) -> set[str]:
    """Data files, manifests and manifest lists of ``snapshots``."""
    manifests: dict[str, ManifestFile] = {}  # by path, because snapshots share most manifests
    for snapshot in snapshots:
        manifests |= {manifest.manifest_path: manifest for manifest in snapshot.manifests(table.io)}
    files = {snapshot.manifest_list for snapshot in snapshots} | manifests.keys()
    for manifest in manifests.values():
        entries = manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        files |= {entry.data_file.file_path for entry in entries}
    return files
