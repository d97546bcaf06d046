"""Adds the licence of each caption's image. Adds the source addresses and the model to the view ``captions``."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    for table in ("fused_captions", "rejected_captions", "replayed_captions"):
        op.add_column(table, sa.Column("license", sa.Text), schema=SCHEMA)
    # Create the view of migration 0009 again, with the new columns. Each left join is on a unique key, so PostgreSQL
    # skips the join if a query uses no column of the joined table.
    op.execute(
        """
        create or replace view capsfusion.captions as
        select
            caption.*,
            raw.source as laion_2b_source,
            synthetic.source as laion_coco_source,
            fusion.model || coalesce('@' || nullif(fusion.model_revision, ''), '') as capsfusion_model
        from capsfusion.fused_captions caption
        left join capsfusion.shards raw on raw.shard_id = caption.laion_2b_shard
        left join capsfusion.shards synthetic on synthetic.shard_id = caption.laion_coco_shard
        left join capsfusion.fusions fusion on fusion.fusion_id = caption.fusion_id
        where not exists (
            select from capsfusion.fused_captions newer
            where newer.pair_id = caption.pair_id
            and (newer.loaded_at, newer.fusion_id) > (caption.loaded_at, caption.fusion_id)
        )
        """
    )
