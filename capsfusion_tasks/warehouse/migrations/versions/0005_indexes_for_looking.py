"""Indexes for people who look at captions: pages by time of loading, rejected captions by their words and reasons.

An index is built while loads wait and reads go on.
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
        # All rows of a unit have one loaded_at: with the time alone, a page had to look at all of them.
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
