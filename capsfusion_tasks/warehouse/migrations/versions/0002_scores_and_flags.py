"""Adds validation scores, and flags (warnings about a caption), to the tables of accepted and of rejected captions.

Rows that were loaded before this migration have null scores and no flags.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for table in ("fused_captions", "rejected_captions"):
        # Adding these columns does not rewrite the table, because PostgreSQL stores nulls and constant defaults outside
        # the rows.
        for column in (
            sa.Column("fact_recall", sa.Double),
            sa.Column("invention", sa.Double),
            sa.Column("caption_words", sa.Integer),
            sa.Column("flags", postgresql.ARRAY(sa.Text), nullable=False, server_default="{}"),
        ):
            op.add_column(table, column, schema="capsfusion")
