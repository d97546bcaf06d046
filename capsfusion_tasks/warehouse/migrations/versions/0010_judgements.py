"""Adds the table of people's judgements of captions: good, minor faults, or bad."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.create_table(
        "judgements",
        sa.Column("pair_id", postgresql.UUID(as_uuid=True), nullable=False),
        sa.Column("fusion_id", sa.Text, nullable=False),
        sa.Column("judged_by", sa.Text, nullable=False),
        sa.Column("laion_2b", sa.Text, nullable=False),
        sa.Column("laion_coco", sa.Text, nullable=False),
        sa.Column("capsfusion", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("judged_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("pair_id", "fusion_id", "judged_by", name="judgements_pkey"),
        sa.ForeignKeyConstraint(["fusion_id"], [f"{SCHEMA}.fusions.fusion_id"], name="judgements_fusion_id_fkey"),
        sa.CheckConstraint("verdict in ('good', 'minor', 'bad')", name="verdict"),
        schema=SCHEMA,
    )
