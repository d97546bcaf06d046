"""Creates the first tables: model settings (fusions), source files (shards), work units and captions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

SCHEMA = "capsfusion"


def _text(name: str, **options: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=options.pop("nullable", False), **options)


def _time(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, postgresql.TIMESTAMP(timezone=True), nullable=options.pop("nullable", False), **options)


def upgrade() -> None:
    op.create_table(
        "fusions",
        _text("fusion_id"),
        _text("model"),
        _text("model_revision", nullable=True),
        _text("model_digest"),
        _text("prompt_digest"),
        _text("tokenizer_digest"),
        _text("engine"),
        _text("dtype"),
        sa.Column("num_beams", sa.Integer, nullable=False),
        sa.Column("max_new_tokens", sa.Integer, nullable=False),
        sa.Column("spec", postgresql.JSONB, nullable=False),
        _time("created_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("fusion_id", name="fusions_pkey"),
        schema=SCHEMA,
    )
    op.create_table(
        "shards",
        _text("source"),
        _text("path"),
        _text("etag"),
        _text("shard_id"),
        _text("side"),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger),
        sa.Column("dropped", postgresql.JSONB),
        _time("arrived_at"),
        _text("state", server_default="discovered"),
        _text("error", nullable=True),
        _time("seen_at", server_default=sa.func.now()),
        _time("updated_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("source", "path", "etag", name="shards_pkey"),
        sa.UniqueConstraint("shard_id", name="shards_shard_id_key"),
        sa.CheckConstraint("side in ('laion_2b', 'laion_coco')", name=op.f("shards_side_check")),
        sa.CheckConstraint("state in ('discovered', 'pulled', 'failed')", name=op.f("shards_state_check")),
        schema=SCHEMA,
    )
    op.create_table(
        "work_units",
        _text("unit_id"),
        _text("fusion_id"),
        _time("interval_start"),
        _time("interval_end"),
        _text("dag_run_id", nullable=True),
        _text("state", server_default="planned"),
        sa.Column("rows_in", sa.BigInteger, nullable=False),
        sa.Column("accepted", sa.BigInteger),
        sa.Column("rejected", sa.BigInteger),
        sa.Column("superseded", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("tokens_estimated", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("caption_tokens", sa.BigInteger),
        sa.Column("gpu_seconds", sa.Double),
        sa.Column("rows_per_second", sa.Double),
        sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
        _text("error", nullable=True),
        sa.Column("stats", postgresql.JSONB),
        _time("created_at", server_default=sa.func.now()),
        _time("loaded_at", nullable=True),
        sa.PrimaryKeyConstraint("unit_id", name="work_units_pkey"),
        sa.ForeignKeyConstraint(["fusion_id"], [f"{SCHEMA}.fusions.fusion_id"], name="work_units_fusion_id_fkey"),
        sa.CheckConstraint(
            "state in ('planned', 'fusing', 'fused', 'loaded', 'failed')", name=op.f("work_units_state_check")
        ),
        sa.CheckConstraint(
            "state <> 'loaded' or coalesce(rows_in = accepted + rejected, false)",
            name=op.f("work_units_rows_add_up_check"),
        ),
        schema=SCHEMA,
    )
    op.create_index("work_units_fusion_id_idx", "work_units", ["fusion_id", "state"], schema=SCHEMA)
    op.create_index("work_units_interval_start_idx", "work_units", ["interval_start", "interval_end"], schema=SCHEMA)
    _create_captions("fused_captions")
    _create_captions("rejected_captions", sa.Column("reasons", postgresql.ARRAY(sa.Text), nullable=False))


def _create_captions(table: str, *more: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column("pair_id", postgresql.UUID, nullable=False),
        _text("fusion_id"),
        _text("image_url"),
        _text("laion_2b"),
        _text("laion_coco"),
        _text("capsfusion"),
        *more,
        sa.Column("laion_hash", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Double) for name in ("similarity", "punsafe", "pwatermark")),
        *(
            sa.Column(name, sa.Double)
            for name in ("raw_recall", "synthetic_recall", "novelty", "repetition", "source_overlap")
        ),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("caption_tokens", sa.Integer, nullable=False),
        _text("finish_reason"),
        _text("laion_2b_shard"),
        sa.Column("laion_2b_row", sa.BigInteger, nullable=False),
        _text("laion_coco_shard"),
        sa.Column("laion_coco_row", sa.BigInteger, nullable=False),
        _text("unit_id"),
        _text("dag_run_id", nullable=True),
        _time("loaded_at", server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("pair_id", "fusion_id", name=f"{table}_pkey"),
        sa.ForeignKeyConstraint(["fusion_id"], [f"{SCHEMA}.fusions.fusion_id"], name=f"{table}_fusion_id_fkey"),
        sa.ForeignKeyConstraint(["unit_id"], [f"{SCHEMA}.work_units.unit_id"], name=f"{table}_unit_id_fkey"),
        schema=SCHEMA,
    )
    op.create_index(f"{table}_unit_id_idx", table, ["unit_id"], schema=SCHEMA)
