"""Records for each work unit whether its load replaces existing captions.

The setting ``existing`` decides this when the unit is planned. The decision is recorded, because the setting may change
before the unit is loaded.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.add_column("work_units", sa.Column("existing", sa.Text, nullable=False, server_default="skip"), schema=SCHEMA)
    op.create_check_constraint(
        op.f("work_units_existing_check"), "work_units", "existing in ('skip', 'replace')", schema=SCHEMA
    )
