"""Adds a count to each work unit: how many of its accepted captions have been replaced by later units.

Exports and Iceberg tables have only accepted captions, so they use this count to notice replaced captions. The older
count ``superseded`` includes rejected captions.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.add_column(
        "work_units",
        sa.Column("superseded_accepted", sa.BigInteger, nullable=False, server_default="0"),
        schema=SCHEMA,
    )
    # An accepted caption leaves fused_captions only if it is replaced, so the missing captions are the replaced ones.
    op.execute(
        """
        update capsfusion.work_units unit
        set superseded_accepted = accepted
            - (select count(*) from capsfusion.fused_captions caption where caption.unit_id = unit.unit_id)
        where superseded > 0
        """
    )
    # lake_units.superseded is the unit's count when the unit was written to the Iceberg table. If the count has not
    # changed since, store the new kind of count. If it has changed, store -1: no count equals -1, so the table gets the
    # unit again.
    op.execute(
        """
        update capsfusion.lake_units lake
        set superseded = case when lake.superseded = unit.superseded then unit.superseded_accepted else -1 end
        from capsfusion.work_units unit where unit.unit_id = lake.unit_id
        """
    )
