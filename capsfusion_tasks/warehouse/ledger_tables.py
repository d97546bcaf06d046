"""The tables of the ledger: fusions, shards, units, plans, held units, units in Iceberg tables.

A test compares them with the migrations.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

from capsfusion_tasks.warehouse.schema import metadata, one_of, text_column, time_column

SHARD_STATES = ("discovered", "pulled", "failed")
EXISTING = ("skip", "replace")
GATE_ANSWERS = ("load", "keep out")
UNIT_STATES = ("planned", "fusing", "fused", "loaded", "failed")

# A fusion: a model and its decoding settings. Captions of the same fusion_id were made with the same settings.
fusions = Table(
    "fusions",
    metadata,
    text_column("fusion_id", primary_key=True),
    text_column("model"),
    text_column("model_revision", nullable=True),
    text_column("model_digest"),
    text_column("prompt_digest"),
    text_column("tokenizer_digest"),
    text_column("engine"),
    text_column("dtype"),
    Column("num_beams", Integer, nullable=False),
    Column("max_new_tokens", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    time_column("created_at", server_default=func.now()),
)

# A source file, as the discover task found it.
shards = Table(
    "shards",
    metadata,
    text_column("source"),
    text_column("path"),
    text_column("etag"),
    text_column("shard_id"),
    text_column("side"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("rows", BigInteger),
    Column("dropped", JSONB),  # reason → number of rows that were left out for this reason
    time_column("arrived_at"),
    text_column("state", server_default="discovered"),
    text_column("error", nullable=True),
    time_column("seen_at", server_default=func.now()),
    time_column("updated_at", server_default=func.now()),
    # The interval that a late shard was assigned to. A late shard appeared after its own interval had been listed.
    text_column("adopted_by", nullable=True),
    PrimaryKeyConstraint("source", "path", "etag"),
    UniqueConstraint("shard_id"),
    one_of("side", ("laion_2b", "laion_coco", "image_results")),
    one_of("state", SHARD_STATES),
)

# A unit: the pairs that one fuse task works on.
work_units = Table(
    "work_units",
    metadata,
    text_column("unit_id", primary_key=True),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    # The data interval of the unit's pairs; null in a replay's unit.
    time_column("interval_start", nullable=True),
    time_column("interval_end", nullable=True),
    text_column("dag_run_id", nullable=True),
    text_column("state", server_default="planned"),
    Column("rows_in", BigInteger, nullable=False),
    Column("accepted", BigInteger),
    Column("rejected", BigInteger),
    # Number of this unit's rows that later units have replaced.
    Column("superseded", BigInteger, nullable=False, server_default="0"),
    Column("tokens_estimated", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("caption_tokens", BigInteger),
    Column("gpu_seconds", Double),
    Column("rows_per_second", Double),
    Column("tries", Integer, nullable=False, server_default="0"),
    text_column("error", nullable=True),
    Column("stats", JSONB),
    time_column("created_at", server_default=func.now()),
    time_column("loaded_at", nullable=True),
    # For a unit of a replay: the replay's name, and the fusion_id of the rejected captions whose pairs it fuses again.
    text_column("replay", nullable=True),
    Column("replay_of", Text, ForeignKey(fusions.c.fusion_id)),
    # What to do with a pair that already has a caption of this fusion: skip the pair, or replace the caption.
    text_column("existing", server_default="skip"),
    # Whether the plan that made the unit left pairs for another run, for example because of its limit.
    Column("leaves_pairs", Boolean, nullable=False, server_default=false()),
    # Number of this unit's accepted captions that later units have replaced. ``superseded`` also counts rejected ones.
    Column("superseded_accepted", BigInteger, nullable=False, server_default="0"),
    one_of("state", UNIT_STATES),
    one_of("existing", EXISTING),
    CheckConstraint(
        "num_nonnulls(interval_start, interval_end) = case when replay is null then 2 else 0 end"
        " and (replay is null) = (replay_of is null)",
        name="replay_or_interval",
    ),
    # PostgreSQL accepts a row if the condition of a check is NULL. Without coalesce, it would accept a loaded unit that
    # has no counts.
    CheckConstraint("state <> 'loaded' or coalesce(rows_in = accepted + rejected, false)", name="rows_add_up"),
    Index(None, "fusion_id", "state"),
    Index(None, "interval_start", "interval_end"),
    Index(None, "replay"),
)

# The result of planning an interval. ``pairs``: number of all pairs of the interval, which is the sum of
# ``already_fused``, ``planned``, ``gone`` and the number of pairs that are left for a later run.
plans = Table(
    "plans",
    metadata,
    Column("plan_id", BigInteger, Identity(always=True), primary_key=True),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    time_column("interval_start"),
    time_column("interval_end"),
    text_column("dag_run_id", nullable=True),
    Column("pairs", BigInteger, nullable=False),
    # Pairs left out because they are already loaded under this fusion_id, or because an earlier plan's unit has them.
    Column("already_fused", BigInteger, nullable=False),
    Column("planned", BigInteger, nullable=False),
    time_column("planned_at", server_default=func.now()),
    # Pairs that are left out because their images cannot be downloaded any more. Does not count pairs in
    # ``already_fused``.
    Column("gone", BigInteger, nullable=False, server_default="0"),
    CheckConstraint(
        "least(already_fused, planned, gone) >= 0 and already_fused + planned + gone <= pairs",
        name="pairs_add_up",
    ),
    Index(None, "interval_start", "interval_end"),
    Index(None, "dag_run_id"),
)

# Units that the quality gate held back, and people's answers: load, or keep out. If a unit has several rows, the newest
# row counts. ``told_at``: null until the run's message about held units has been sent to the webhook.
# unit_id is no foreign key, so that an answer stays if the unit is deleted and planned again.
gate_holds = Table(
    "gate_holds",
    metadata,
    Column("hold_id", BigInteger, Identity(always=True), primary_key=True),
    text_column("unit_id"),
    text_column("dag_run_id", nullable=True),
    Column("rows_in", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    text_column("problem"),
    text_column("details"),
    time_column("held_at", server_default=func.now()),
    text_column("answer", nullable=True),
    text_column("answered_by", nullable=True),
    time_column("answered_at", nullable=True),
    time_column("told_at", nullable=True),
    one_of("answer", GATE_ANSWERS),
    CheckConstraint("num_nonnulls(answer, answered_by, answered_at) in (0, 3)", name="whole_answer"),
    Index(None, "unit_id"),
)

# Units in Iceberg tables. ``superseded``: the unit's ``superseded_accepted`` when the unit was written to the
# Iceberg table. The key includes the Iceberg table's UUID: if the table is deleted and created again, it
# has another UUID, so all units are written again.
lake_units = Table(
    "lake_units",
    metadata,
    text_column("table_uuid"),
    Column("unit_id", Text, ForeignKey(work_units.c.unit_id, ondelete="CASCADE"), nullable=False),
    Column("superseded", BigInteger, nullable=False),
    # The Iceberg table's snapshot that wrote the unit. Null if the unit has no accepted caption.
    Column("snapshot_id", BigInteger),
    time_column("entered_at", server_default=func.now()),
    PrimaryKeyConstraint("table_uuid", "unit_id"),
)
