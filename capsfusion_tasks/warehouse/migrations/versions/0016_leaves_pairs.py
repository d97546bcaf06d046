"""Records for each work unit whether the plan that created the unit left pairs for another run.

If the units replace captions, the next run reads this column to continue the replacement instead of restarting it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    column = sa.Column("leaves_pairs", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("work_units", column, schema=SCHEMA)
