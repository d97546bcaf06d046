"""Adds the table of work units that the quality gate held back, with people's decisions to load them or not."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.create_table(
        "gate_holds",
        sa.Column("hold_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("unit_id", sa.Text, nullable=False),
        sa.Column("dag_run_id", sa.Text),
        sa.Column("rows_in", sa.BigInteger, nullable=False),
        sa.Column("rejected", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("held_at", postgresql.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("answer", sa.Text),
        sa.Column("answered_by", sa.Text),
        sa.Column("answered_at", postgresql.TIMESTAMP(timezone=True)),
        sa.CheckConstraint("answer in ('load', 'keep out')", name=op.f("gate_holds_answer_check")),
        sa.CheckConstraint(
            "num_nonnulls(answer, answered_by, answered_at) in (0, 3)", name=op.f("gate_holds_whole_answer_check")
        ),
        schema=SCHEMA,
    )
    op.create_index("gate_holds_unit_id_idx", "gate_holds", ["unit_id"], schema=SCHEMA)
