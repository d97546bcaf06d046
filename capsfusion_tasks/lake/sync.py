"""Writes loaded units from the warehouse to an Iceberg table, each unit in one commit.

A unit is a set of pairs that are fused, validated and loaded together. Each commit makes a snapshot that names the
unit. After the commit, the warehouse's table ``lake_units`` records the unit. If the process dies between the commit
and the record, the next sync finds the snapshot and adds only the record. So the Iceberg table never has a caption
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from capsfusion_tasks import __version__
from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.lake.catalog import Lake
from capsfusion_tasks.warehouse import lake_units
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.lake_units import LakeUnit
from capsfusion_tasks.warehouse.sessions import LockedSession, locked_session

if TYPE_CHECKING:
    from pyiceberg.table import Table

UNIT, SUPERSEDED = "capsfusion.unit", "capsfusion.superseded_accepted"  # names of snapshot properties


@dataclass
class Synced:
    """Counts of a sync. ``units`` and ``rows``: units and captions that the sync wrote to the Iceberg table.

    ``found``: units that an earlier process wrote, but did not record before it died.
    """

    units: int = 0
    rows: int = 0
    found: int = 0


@contextmanager
def sole_writer(warehouse: Warehouse, lake: Lake) -> Iterator[LockedSession]:
    """Lock the table, so that only one sync or maintenance runs at a time. Raises NotReadyError if it is locked."""
    with locked_session(warehouse.engine) as session:
        if not session.try_lock("lake", lake.name):
            raise NotReadyError(f"another process is writing to the Iceberg table {lake.name}; try again later")
        yield session


def sync(
    warehouse: Warehouse, lake: Lake, session: LockedSession, say: Callable[[str], None] = print
) -> tuple[Table | None, Synced]:
    """Write the units that the table lacks. Returns the table (None if no unit has a caption yet) and the counts.

    In the warehouse, a later unit can supersede captions of an earlier unit. First rewrites each unit that has lost
    captions in this way. Then writes the other units. So the table may lack a caption for a short time, but never has
    the caption twice.
    """
    table, done = lake.table(), Synced()
    uuid = str(table.metadata.table_uuid) if table else ""
    written = _written_units(table) if table else {}
    with session.transaction() as connection:
        units = lake_units.missing_units(connection, uuid)
    for unit in sorted(units, key=lambda unit: not (unit.in_lake or unit.unit_id in written)):
        superseded, snapshot_id = written.get(unit.unit_id, (None, None))
        if superseded == unit.superseded:
            done.found += 1
        else:
            rows = lake_units.captions_of(warehouse, unit)
            with session.transaction():  # raises if the lock was lost while the captions were read
                pass
            if table is None and rows.num_rows:
                table = lake.create(rows.schema)
                uuid = str(table.metadata.table_uuid)
            snapshot_id = _write(table, unit, rows, again=unit.in_lake or superseded is not None)
            if snapshot_id is not None:
                done.units, done.rows = done.units + 1, done.rows + rows.num_rows
                say(f"lake: {unit.unit_id}: {rows.num_rows} captions")
        if table is not None:  # without a table, there is no snapshot to record
            with session.transaction() as connection:
                lake_units.enter(connection, uuid, unit, snapshot_id)
    return table, done


def _written_units(table: Table) -> dict[str, tuple[int, int]]:
    """Unit → (number of its superseded captions, snapshot id), from the newest snapshot that wrote the unit.

    The number is -1 if an earlier version of this program wrote the unit. That version also counted rejected captions,
    so its number cannot be compared with the current number.
    """
    from pyiceberg.table.snapshots import ancestors_of

    found: dict[str, tuple[int, int]] = {}
    for snapshot in ancestors_of(table.current_snapshot(), table.metadata):  # the newest first
        properties = snapshot.summary.additional_properties if snapshot.summary else {}
        if UNIT in properties:
            found.setdefault(properties[UNIT], (int(properties.get(SUPERSEDED, -1)), snapshot.snapshot_id))
    return found


def _write(table: Table | None, unit: LakeUnit, rows: pa.Table, *, again: bool) -> int | None:
    """Write ``rows``, the captions of ``unit``. With ``again``, replace the rows that the table has of this unit.

    Returns the id of the new snapshot. None if there is nothing to write.
    """
    from pyiceberg.expressions import And, EqualTo

    if table is None or not (again or rows.num_rows):
        return None
    # Add to the Iceberg table the columns that the warehouse got after this table was created.
    if not set(rows.schema.names) <= set(table.schema().column_names):
        with table.update_schema() as update:
            update.union_by_name(rows.schema)
    marks = {UNIT: unit.unit_id, SUPERSEDED: str(unit.superseded), "capsfusion.version": __version__}
    if not again:
        table.append(rows, snapshot_properties=marks)
    else:
        of_unit = And(EqualTo("fusion_id", unit.fusion_id), EqualTo("unit_id", unit.unit_id))
        table.overwrite(rows, overwrite_filter=of_unit, snapshot_properties=marks)
    snapshot = table.current_snapshot()
    return snapshot.snapshot_id if snapshot else None
