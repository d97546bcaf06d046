"""Migrates an empty database, and filled databases of earlier versions. All get the schema that the code describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from capsfusion_tasks.warehouse.caption_tables import judgements
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.lake_units import missing_units
from capsfusion_tasks.warehouse.load import LoadResult, load_unit
from capsfusion_tasks.warehouse.migrate import current_revision, head_revision, known_revisions, upgrade
from capsfusion_tasks.warehouse.schema import SCHEMA, VERSION_TABLE
from capsfusion_tasks.warehouse.url import parse_url
from tests.warehouse.conftest import plan, rows

EARLIER = sorted(known_revisions() - {head_revision()})

# Rows for each table of the first version. A test loads the pairs 100 and 101 again after the migration.
FIRST_ROWS = """
insert into capsfusion.fusions
values ('f1', 'demo', null, 'm', 'p', 't', 'native', 'float32', 3, 80, '{"model": "demo"}', now());
insert into capsfusion.shards (source, path, etag, shard_id, side, size_bytes, arrived_at, dropped)
values ('/data', 'a.parquet', 'e', 's1', 'laion_2b', 7, now(), '{"unsafe": 2}');
insert into capsfusion.work_units
    (unit_id, fusion_id, interval_start, interval_end, state, rows_in, accepted, rejected, tokens_estimated)
values ('u0', 'f1', now(), now(), 'loaded', 2, 1, 1, 90), ('u1', 'f1', now(), now(), 'fused', 2, null, null, 90);
insert into capsfusion.fused_captions
    (pair_id, fusion_id, image_url, laion_2b, laion_coco, capsfusion, laion_hash, similarity, prompt_tokens,
     caption_tokens, finish_reason, laion_2b_shard, laion_2b_row, laion_coco_shard, laion_coco_row, unit_id)
select md5('100')::uuid, 'f1', repeat('http://long/', 1000), 'raw', 'synthetic', 'A fused caption.', -1, 0.3, 150, 20,
    'stop', 's1', 0, 's2', 1, 'u0';
insert into capsfusion.rejected_captions
    (pair_id, fusion_id, image_url, laion_2b, laion_coco, capsfusion, reasons, laion_hash, prompt_tokens,
     caption_tokens, finish_reason, laion_2b_shard, laion_2b_row, laion_coco_shard, laion_coco_row, unit_id)
values (md5('101')::uuid, 'f1', 'u', 'raw', 'synthetic', 'x', '{loop}', -1, 150, 20, 'stop', 's1', 0, 's2', 1, 'u0');
"""


@pytest.fixture
def engine(postgres: EmbeddedPostgres) -> Iterator[Engine]:
    """An engine for an empty database."""
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    engine = create_engine(postgres.url("migrations"))
    with admin.connect() as connection:
        connection.execute(text("create database migrations"))
        yield engine
        engine.dispose()
        connection.execute(text("drop database migrations with (force)"))
    admin.dispose()


def everything(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dict(row) for row in connection.execute(text(f"select * from {SCHEMA}.{name} order by 1")).mappings()]
        for name in inspect(connection).get_table_names(SCHEMA)
        if name != VERSION_TABLE
    }


@pytest.mark.parametrize("revision", EARLIER)
def test_rows_of_an_earlier_version_stay_and_new_ones_come(engine: Engine, revision: str) -> None:
    upgrade(engine, revision)
    with engine.begin() as connection:
        connection.exec_driver_sql(FIRST_ROWS)
        before = {name: rows for name, rows in everything(connection).items() if rows}
        assert len(before) == 5
    upgrade(engine)
    with engine.connect() as connection:
        assert current_revision(connection) == head_revision()
        after = everything(connection)
        for name, rows_before in before.items():
            kept = [{column: row[column] for column in rows_before[0]} for row in after[name]]
            assert kept == rows_before
        assert_built_as_described(connection)
    warehouse = Warehouse(engine, parse_url(engine.url.render_as_string(hide_password=False)))
    assert load_unit(warehouse, "u1", rows(1, 2, rejected={2: ["loop"]})) == LoadResult(1, 1, already_loaded=False)
    plan(warehouse, ("u2", 2))
    assert load_unit(warehouse, "u2", rows(100, 101), replace=True) == LoadResult(2, 0, already_loaded=False)
    with engine.connect() as connection:
        assert violations(connection) == []
        unmarked = text("update capsfusion.work_units set accepted = 9 where unit_id = 'u0'")
        with pytest.raises(IntegrityError, match="work_units_rows_add_up_check"):
            connection.execute(unmarked)


def test_replaced_captions_of_an_earlier_version_are_counted_again(engine: Engine) -> None:
    upgrade(engine, "0015")
    with engine.begin() as connection:
        connection.exec_driver_sql(FIRST_ROWS)
        connection.exec_driver_sql(
            "update capsfusion.work_units set rows_in = 5, accepted = 3, rejected = 2, superseded = 3"
            " where unit_id = 'u0'; insert into capsfusion.lake_units (table_uuid, unit_id, superseded)"
            " values ('newest', 'u0', 3), ('older', 'u0', 2)"
        )
    upgrade(engine)
    with engine.connect() as connection:
        assert (
            connection.scalar(text("select superseded_accepted from capsfusion.work_units where unit_id = 'u0'")) == 2
        )
        assert [unit.unit_id for unit in missing_units(connection, "newest")] == []
        assert [unit.unit_id for unit in missing_units(connection, "older")] == ["u0"]


def test_from_nothing_and_again(engine: Engine) -> None:
    upgrade(engine)
    upgrade(engine)  # changes nothing
    with engine.connect() as connection:
        assert_built_as_described(connection)


def assert_built_as_described(connection: Connection) -> None:
    """Check that the migrated schema equals the schema of the tables in the code."""
    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
            "version_table": VERSION_TABLE,
            "version_table_schema": SCHEMA,
            "compare_server_default": True,
        },
    )
    assert compare_metadata(context, judgements.metadata) == []
    # Alembic compares neither checks nor the order of columns nor the kinds of indexes, so these are compared here.
    for name, table in ((table.name, table) for table in judgements.metadata.tables.values()):
        stored = inspect(connection)
        assert [column["name"] for column in stored.get_columns(name, SCHEMA)] == table.columns.keys()
        checks = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        assert {check["name"] for check in stored.get_check_constraints(name, SCHEMA)} == checks
    migrated = indexes(connection, SCHEMA)
    connection.execute(text("create schema described"))
    judgements.metadata.create_all(connection.execution_options(schema_translate_map={SCHEMA: "described"}))
    assert migrated == indexes(connection, "described")
    connection.rollback()


def indexes(connection: Connection, schema: str) -> dict[str, str]:
    """All indexes except that of Alembic's version table: name → definition, without the schema's name."""
    query = text("select indexname, indexdef from pg_indexes where schemaname = :schema and tablename <> :version")
    found = connection.execute(query, {"schema": schema, "version": VERSION_TABLE})
    return {name: definition.replace(f" {schema}.", " ") for name, definition in found}
