"""Adds indexes for frequent queries, and the view ``captions``, which has the newest caption of each pair.

While an index is built, loads wait and reads continue. docs/queries.md says how long this takes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    for table in ("fused_captions", "rejected_captions"):
        _create_index(table, "image_url", using="hash")
        _create_index(table, "loaded_at")
        _create_index(table, "fusion_id", "loaded_at", "pair_id")
        _create_index(table, "laion_2b_shard")
        _create_index(table, "laion_coco_shard")
    _create_index("fused_captions", "capsfusion", using="hash")
    op.create_index(
        "fused_captions_words_idx",
        "fused_captions",
        [sa.text("to_tsvector('english'::regconfig, capsfusion)")],
        schema=SCHEMA,
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 16384},
    )
    # The view uses an anti-join (`where not exists`) instead of `distinct on`, so that a query with a condition or a
    # limit on the view can use the table's indexes. PostgreSQL replaces `caption.*` by the column names when it creates
    # the view, so a migration that adds a column to fused_captions must create the view again.
    op.execute(
        """
        create view capsfusion.captions as
        select caption.* from capsfusion.fused_captions caption
        where not exists (
            select from capsfusion.fused_captions newer
            where newer.pair_id = caption.pair_id
            and (newer.loaded_at, newer.fusion_id) > (caption.loaded_at, caption.fusion_id)
        )
        """
    )


def _create_index(table: str, *columns: str, using: str = "btree") -> None:
    op.create_index(f"{table}_{columns[0]}_idx", table, list(columns), schema=SCHEMA, postgresql_using=using)
