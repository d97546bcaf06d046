"""Adds the time at which a run's message about its held units (which the quality gate did not load) was sent.

Null until the message is sent: if sending fails, it is tried again later.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.add_column("gate_holds", sa.Column("told_at", postgresql.TIMESTAMP(timezone=True)), schema=SCHEMA)
