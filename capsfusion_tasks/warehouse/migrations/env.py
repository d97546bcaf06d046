"""Alembic's entry point: runs the migrations on the connection that ``migrate.upgrade`` passes."""

from __future__ import annotations

from alembic import context

from capsfusion_tasks.warehouse.caption_tables import judgements
from capsfusion_tasks.warehouse.schema import SCHEMA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=judgements.metadata,
    version_table=VERSION_TABLE,
    version_table_schema=SCHEMA,
)
with context.begin_transaction():
    context.run_migrations()
