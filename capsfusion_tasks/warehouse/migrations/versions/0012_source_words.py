"""Adds an index for word searches in the raw and synthetic captions, for accepted and for rejected captions.

While an index is built, loads wait and reads continue.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for table in ("fused_captions", "rejected_captions"):
        op.create_index(
            f"{table}_source_words_idx",
            table,
            [sa.text(f"to_tsvector('english'::regconfig, {column})") for column in ("laion_2b", "laion_coco")],
            schema="capsfusion",
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 16384},
        )
