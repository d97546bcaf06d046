"""Tasks for the Iceberg table: write the captions of loaded units, merge small files, and remove old snapshots."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from capsfusion_tasks.context import Context
from capsfusion_tasks.lake.catalog import open_lake
from capsfusion_tasks.lake.maintenance import MIN_FILES, Maintained, compact, expire
from capsfusion_tasks.lake.sync import Synced, sole_writer, sync


def sync_lake(context: Context, *, say: Callable[[str], None] = print) -> Synced:
    """Write the loaded units that the Iceberg table lacks. Raises the errors of ``open_lake`` and ``sole_writer``."""
    warehouse = context.warehouse
    with open_lake(context.settings, warehouse) as lake, sole_writer(warehouse, lake) as session:
        return sync(warehouse, lake, session, say)[1]


def maintain_lake(
    context: Context, *, before: datetime, min_files: int = MIN_FILES, say: Callable[[str], None] = print
) -> Maintained:
    """Merge small files of the Iceberg table, and remove snapshots older than ``before``.

    First writes missing units, because writing may need the old snapshots: if a process died after it wrote a unit and
    before the warehouse recorded this, only a snapshot shows that the unit was written.
    """
    warehouse = context.warehouse
    with open_lake(context.settings, warehouse) as lake, sole_writer(warehouse, lake) as session:
        table, _ = sync(warehouse, lake, session, say)
        if table is None:
            return Maintained()
        partitions = compact(table, min_files=min_files, say=say)
        snapshots, files = expire(table, before=before)
        return Maintained(partitions, snapshots, files)
