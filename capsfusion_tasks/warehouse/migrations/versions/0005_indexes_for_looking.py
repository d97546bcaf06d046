"""Adds indexes for browsing captions by loading time and flags, and rejected captions also by words and by reasons.

While an index is built, loads wait and reads continue.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    for table in ("fused_captions", "rejected_captions"):
        # Add pair_id to the index, because all rows of a work unit have the same loaded_at. With an index on loaded_at
        # alone, the query for one page of captions had to read all rows of the unit.
        op.drop_index(f"{table}_loaded_at_idx", table, schema=SCHEMA)
        op.create_index(f"{table}_loaded_at_idx", table, ["loaded_at", "pair_id"], schema=SCHEMA)
        op.create_index(f"{table}_flags_idx", table, ["flags"], schema=SCHEMA, postgresql_using="gin")
    op.create_index(
        "rejected_captions_words_idx",
        "rejected_captions",
        [sa.text("to_tsvector('english'::regconfig, capsfusion)")],
        schema=SCHEMA,
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 16384},
    )
    op.create_index(
        "rejected_captions_reasons_idx", "rejected_captions", ["reasons"], schema=SCHEMA, postgresql_using="gin"
    )
