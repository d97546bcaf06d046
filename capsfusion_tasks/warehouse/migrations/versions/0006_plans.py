"""Adds a table of plans. A plan divides the caption pairs of a data interval into work units.

Each row counts the pairs of one plan: all pairs, pairs that were fused already, and pairs in the plan's units.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.create_table(
        "plans",
        sa.Column("plan_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("fusion_id", sa.Text, sa.ForeignKey(f"{SCHEMA}.fusions.fusion_id"), nullable=False),
        sa.Column("interval_start", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("interval_end", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("dag_run_id", sa.Text),
        sa.Column("pairs", sa.BigInteger, nullable=False),
        sa.Column("already_fused", sa.BigInteger, nullable=False),
        sa.Column("planned", sa.BigInteger, nullable=False),
        sa.Column("planned_at", postgresql.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.CheckConstraint(
            "least(already_fused, planned) >= 0 and already_fused + planned <= pairs",
            name=op.f("plans_pairs_add_up_check"),
        ),
        schema=SCHEMA,
    )
    op.create_index("plans_interval_start_idx", "plans", ["interval_start", "interval_end"], schema=SCHEMA)
    op.create_index("plans_dag_run_id_idx", "plans", ["dag_run_id"], schema=SCHEMA)
