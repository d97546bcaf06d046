"""Records which work units are in an Iceberg table, and creates the database schema of the default Iceberg catalog."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
from sqlalchemy import Connection, and_, func, select, text
from sqlalchemy.dialects.postgresql import insert

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.adbc_session import plain_type
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.export import FUSION, KEY, export_session
from capsfusion_tasks.warehouse.export_selection import Selection, Snapshot, named_columns
from capsfusion_tasks.warehouse.ledger_tables import lake_units, work_units
from capsfusion_tasks.warehouse.url import describe

CATALOG_SCHEMA = "capsfusion_lake"


@dataclass(frozen=True)
class LakeUnit:
    """A loaded unit. ``superseded``: number of its accepted captions that later units have replaced."""

    unit_id: str
    fusion_id: str
    accepted: int
    superseded: int
    in_lake: bool  # the Iceberg table has the unit, perhaps with rows that were replaced later


def missing_units(connection: Connection, table_uuid: str) -> list[LakeUnit]:
    """Loaded units that the Iceberg table lacks or must get again, oldest first.

    The table must get a unit again if later units have replaced captions of this unit since the table got it.
    """
    unit, lake = work_units.c, lake_units.c
    mine = and_(lake.unit_id == unit.unit_id, lake.table_uuid == table_uuid)
    statement = (
        select(
            unit.unit_id,
            unit.fusion_id,
            unit.accepted,
            unit.superseded_accepted.label("superseded"),
            lake.unit_id.is_not(None).label("in_lake"),
        )
        .select_from(work_units.outerjoin(lake_units, mine))
        .where(unit.state == "loaded", lake.superseded.is_distinct_from(unit.superseded_accepted))
        .order_by(unit.loaded_at, unit.unit_id)
    )
    return [LakeUnit(**row) for row in connection.execute(statement).mappings()]


def enter(connection: Connection, table_uuid: str, unit: LakeUnit, snapshot_id: int | None) -> None:
    """Record that the Iceberg table has ``unit``.

    ``snapshot_id``: the table's snapshot that wrote the unit; None if the unit has no accepted caption.
    """
    key = {"table_uuid": table_uuid, "unit_id": unit.unit_id}
    values = {"superseded": unit.superseded, "snapshot_id": snapshot_id}
    statement = insert(lake_units).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


def captions_of(warehouse: Warehouse, unit: LakeUnit) -> pa.Table:
    """The current accepted captions of ``unit`` in the warehouse, with all columns, sorted by pair_id.

    The columns for sources contain addresses, as in the view ``captions``. In exports, these columns contain names of
    releases instead, but such a name can change when a source is added.
    """
    selection = Selection(columns=named_columns("all"), fusion_id=unit.fusion_id)
    with export_session(warehouse, f"lake {unit.unit_id}") as session:
        snapshot = Snapshot(
            at=datetime.now(UTC),
            units=(unit.unit_id,),
            accepted=0,
            superseded=0,
            fusions={},
            releases=session.sources(),
        )
        with session.captions(selection, snapshot, after=None, limit=None) as (schema, batches):
            rows = pa.Table.from_batches(batches, schema).drop_columns([KEY, FUSION])
    return rows.cast(pa.schema([(field.name, plain_type(field.type)) for field in rows.schema]))


def make_catalog_schema(warehouse: Warehouse) -> str:
    """Create ``CATALOG_SCHEMA`` if it is missing. Returns a URL for an Iceberg catalog in this schema.

    The URL contains the warehouse's password. Raises InputError if the warehouse's login may not create the schema.
    """
    with warehouse.engine.begin() as connection:
        exists = connection.scalar(select(func.to_regnamespace(CATALOG_SCHEMA))) is not None
        if not exists:
            if not connection.scalar(select(func.has_database_privilege(func.current_database(), "create"))):
                login = connection.scalar(select(func.quote_ident(func.current_user())))
                raise InputError(
                    f"the default Iceberg catalog needs the schema {CATALOG_SCHEMA} in {describe(warehouse.url)}, which"
                    f" this login may not create; ask the database's owner to run: create schema {CATALOG_SCHEMA}"
                    f" authorization {login}"
                )
            connection.execute(text(f"create schema if not exists {CATALOG_SCHEMA}"))
    options = f"{warehouse.url.query.get('options', '')} -csearch_path={CATALOG_SCHEMA}".strip()
    return warehouse.url.update_query_dict({"options": options}).render_as_string(hide_password=False)
