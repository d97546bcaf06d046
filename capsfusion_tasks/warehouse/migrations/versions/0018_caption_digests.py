"""Replaces the hash index on the text of accepted captions by a B-tree index on their MD5 digests.

To insert a caption, a hash index walks through the entries of all equal captions. A B-tree does not need to. While the
new index is built, loads wait and reads continue.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def upgrade() -> None:
    op.create_index("fused_captions_digest_idx", "fused_captions", [sa.text("(md5(capsfusion)::uuid)")], schema=SCHEMA)
    # Without statistics on the digests, PostgreSQL expects each digest in 0.5% of the rows. Only an ANALYZE without a
    # list of columns collects these statistics.
    op.execute("analyze capsfusion.fused_captions")
    # Drop the old index last, because from here on readers wait until the migration ends.
    op.drop_index("fused_captions_capsfusion_idx", "fused_captions", schema=SCHEMA)
