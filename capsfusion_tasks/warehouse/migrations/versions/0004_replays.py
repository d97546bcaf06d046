"""Adds replays. A replay takes pairs whose fused caption was rejected, and fuses them again.

The work units of a replay belong to no data interval, so the columns of their interval become nullable. The new table
``replayed_captions`` keeps the captions that replays replaced.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    for column in ("interval_start", "interval_end"):
        op.alter_column("work_units", column, nullable=True, schema=SCHEMA)
    for column in ("replay", "replay_of"):
        op.add_column("work_units", sa.Column(column, sa.Text), schema=SCHEMA)
    op.create_foreign_key(
        "work_units_replay_of_fkey",
        "work_units",
        "fusions",
        ["replay_of"],
        ["fusion_id"],
        source_schema=SCHEMA,
        referent_schema=SCHEMA,
    )
    op.create_check_constraint(
        op.f("work_units_replay_or_interval_check"),
        "work_units",
        "num_nonnulls(interval_start, interval_end) = case when replay is null then 2 else 0 end"
        " and (replay is null) = (replay_of is null)",
        schema=SCHEMA,
    )
    op.create_index("work_units_replay_idx", "work_units", ["replay"], schema=SCHEMA)
    # Copy the columns of rejected_captions, in the same order and with their defaults, but without keys and indexes.
    op.execute(f"create table {SCHEMA}.replayed_captions (like {SCHEMA}.rejected_captions including defaults)")
    op.add_column("replayed_captions", sa.Column("replayed_by", sa.Text, nullable=False), schema=SCHEMA)
    op.add_column(
        "replayed_captions",
        sa.Column("replayed_at", postgresql.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        schema=SCHEMA,
    )
    op.create_primary_key("replayed_captions_pkey", "replayed_captions", ["pair_id", "unit_id"], schema=SCHEMA)
    for column, table in {"fusion_id": "fusions", "unit_id": "work_units", "replayed_by": "work_units"}.items():
        op.create_foreign_key(
            f"replayed_captions_{column}_fkey",
            "replayed_captions",
            table,
            [column],
            ["fusion_id" if table == "fusions" else "unit_id"],
            source_schema=SCHEMA,
            referent_schema=SCHEMA,
        )
    for column in ("unit_id", "replayed_by"):
        op.create_index(f"replayed_captions_{column}_idx", "replayed_captions", [column], schema=SCHEMA)
