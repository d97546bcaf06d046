"""Adds columns for results of the beam search to the tables of accepted, rejected and replayed captions.

``beam``: the rank of the accepted caption in the beam search. ``rescued_from``: why validation rejected the search's
best caption. ``other_beams``: the search's other captions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.add_column("fused_captions", sa.Column("beam", sa.Integer), schema=SCHEMA)
    op.add_column("fused_captions", sa.Column("rescued_from", postgresql.ARRAY(sa.Text)), schema=SCHEMA)
    for table in ("rejected_captions", "replayed_captions"):
        op.add_column(table, sa.Column("other_beams", postgresql.JSONB), schema=SCHEMA)
    op.create_index(
        "fused_captions_rescued_idx",
        "fused_captions",
        ["unit_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("rescued_from is not null"),
    )
    # Create the view of migration 0003 again, with the new columns.
    op.execute(
        """
        create or replace view capsfusion.captions as
        select caption.* from capsfusion.fused_captions caption
        where not exists (
            select from capsfusion.fused_captions newer
            where newer.pair_id = caption.pair_id
            and (newer.loaded_at, newer.fusion_id) > (caption.loaded_at, caption.fusion_id)
        )
        """
    )
