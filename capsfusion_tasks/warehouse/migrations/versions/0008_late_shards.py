"""Adds a column to the table of shards (source files): the data interval to which a late shard was assigned.

A late shard appeared in its source after the shards of its own data interval had been listed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.add_column("shards", sa.Column("adopted_by", sa.Text), schema=SCHEMA)
