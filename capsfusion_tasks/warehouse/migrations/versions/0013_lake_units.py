"""Adds the table that lists the work units whose captions were written to an Iceberg table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.create_table(
        "lake_units",
        sa.Column("table_uuid", sa.Text, nullable=False),
        sa.Column("unit_id", sa.Text, nullable=False),
        sa.Column("superseded", sa.BigInteger, nullable=False),
        sa.Column("snapshot_id", sa.BigInteger),
        sa.Column("entered_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("table_uuid", "unit_id", name="lake_units_pkey"),
        sa.ForeignKeyConstraint(
            ["unit_id"], [f"{SCHEMA}.work_units.unit_id"], name="lake_units_unit_id_fkey", ondelete="CASCADE"
        ),
        schema=SCHEMA,
    )
