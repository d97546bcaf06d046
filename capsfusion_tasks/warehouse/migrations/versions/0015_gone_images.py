"""Allows image results (files that say which images img2dataset could download) in the table of shards.

Adds a column to the table of plans: the number of pairs left out because their images can no longer be downloaded.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    _check("shards", "shards_side_check", "side in ('laion_2b', 'laion_coco', 'image_results')")
    op.add_column("plans", sa.Column("gone", sa.BigInteger, nullable=False, server_default="0"), schema=SCHEMA)
    _check(
        "plans",
        "plans_pairs_add_up_check",
        "least(already_fused, planned, gone) >= 0 and already_fused + planned + gone <= pairs",
    )


def _check(table: str, name: str, condition: str) -> None:
    """Replace the check constraint ``name`` of the table by one with this condition."""
    op.drop_constraint(op.f(name), table, schema=SCHEMA)
    op.create_check_constraint(op.f(name), table, condition, schema=SCHEMA)
