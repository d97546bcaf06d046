"""The warehouse's tables, in schema ``capsfusion``. A test checks that the migrations create the same tables."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, UUID

SCHEMA = "capsfusion"
VERSION_TABLE = "schema_version"  # Alembic's own
SHARD_STATES = ("discovered", "pulled", "failed")
EXISTING = ("skip", "replace")
# As in files of judgements: good to train on, good but for a small fault, not to be trained on.
JUDGEMENTS = ("good", "minor", "bad")
GATE_ANSWERS = ("load", "keep out")
UNIT_STATES = ("planned", "fusing", "fused", "loaded", "failed")

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def _text(name: str, **options: Any) -> Column[str]:
    return Column(name, Text, nullable=options.pop("nullable", False), **options)


def _time(name: str, **options: Any) -> Column[Any]:
    return Column(name, TIMESTAMP(timezone=True), nullable=options.pop("nullable", False), **options)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(repr(value) for value in values)})", name=column)


# The settings behind each fusion_id.
fusions = Table(
    "fusions",
    metadata,
    _text("fusion_id", primary_key=True),
    _text("model"),
    _text("model_revision", nullable=True),
    _text("model_digest"),
    _text("prompt_digest"),
    _text("tokenizer_digest"),
    _text("engine"),
    _text("dtype"),
    Column("num_beams", Integer, nullable=False),
    Column("max_new_tokens", Integer, nullable=False),
    Column("spec", JSONB, nullable=False),
    _time("created_at", server_default=func.now()),
)

# A source file, as discovered.
shards = Table(
    "shards",
    metadata,
    _text("source"),
    _text("path"),
    _text("etag"),
    _text("shard_id"),
    _text("side"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("rows", BigInteger),
    Column("dropped", JSONB),  # reason → rows
    _time("arrived_at"),
    _text("state", server_default="discovered"),
    _text("error", nullable=True),
    _time("seen_at", server_default=func.now()),
    _time("updated_at", server_default=func.now()),
    # The interval that took the shard, as its key, where the list of the shard's own interval was frozen before.
    _text("adopted_by", nullable=True),
    PrimaryKeyConstraint("source", "path", "etag"),
    UniqueConstraint("shard_id"),
    _one_of("side", ("laion_2b", "laion_coco")),
    _one_of("state", SHARD_STATES),
)

# The work of one fuse task.
work_units = Table(
    "work_units",
    metadata,
    _text("unit_id", primary_key=True),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    # The data interval of its pairs; null in a replay's unit.
    _time("interval_start", nullable=True),
    _time("interval_end", nullable=True),
    _text("dag_run_id", nullable=True),
    _text("state", server_default="planned"),
    Column("rows_in", BigInteger, nullable=False),
    Column("accepted", BigInteger),
    Column("rejected", BigInteger),
    # Rows of this unit that a later unit has replaced.
    Column("superseded", BigInteger, nullable=False, server_default="0"),
    Column("tokens_estimated", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("caption_tokens", BigInteger),
    Column("gpu_seconds", Double),
    Column("rows_per_second", Double),
    Column("tries", Integer, nullable=False, server_default="0"),
    _text("error", nullable=True),
    Column("stats", JSONB),
    _time("created_at", server_default=func.now()),
    _time("loaded_at", nullable=True),
    # Of a replay's unit: the replay's name, and the fusion whose rejected captions it fuses again.
    _text("replay", nullable=True),
    Column("replay_of", Text, ForeignKey(fusions.c.fusion_id)),
    # What to do with captions that its pairs have under its fusion.
    _text("existing", server_default="skip"),
    _one_of("state", UNIT_STATES),
    _one_of("existing", EXISTING),
    CheckConstraint(
        "num_nonnulls(interval_start, interval_end) = case when replay is null then 2 else 0 end"
        " and (replay is null) = (replay_of is null)",
        name="replay_or_interval",
    ),
    # coalesce: a check that gives NULL passes, also for a loaded unit without counts.
    CheckConstraint("state <> 'loaded' or coalesce(rows_in = accepted + rejected, false)", name="rows_add_up"),
    Index(None, "fusion_id", "state"),
    Index(None, "interval_start", "interval_end"),
    Index(None, "replay"),
)

# The result of planning an interval. Pairs that were neither fused already nor planned are left for a later run.
plans = Table(
    "plans",
    metadata,
    Column("plan_id", BigInteger, Identity(always=True), primary_key=True),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    _time("interval_start"),
    _time("interval_end"),
    _text("dag_run_id", nullable=True),
    Column("pairs", BigInteger, nullable=False),
    # Loaded under this fusion_id, or in another unit of it.
    Column("already_fused", BigInteger, nullable=False),
    Column("planned", BigInteger, nullable=False),
    _time("planned_at", server_default=func.now()),
    CheckConstraint(
        "least(already_fused, planned) >= 0 and already_fused + planned <= pairs",
        name="pairs_add_up",
    ),
    Index(None, "interval_start", "interval_end"),
    Index(None, "dag_run_id"),
)


# Units that the gate kept out, and who decided what becomes of them. A unit's newest row counts. Without a foreign key:
# the answers stay if the unit is planned anew.
gate_holds = Table(
    "gate_holds",
    metadata,
    Column("hold_id", BigInteger, Identity(always=True), primary_key=True),
    _text("unit_id"),
    _text("dag_run_id", nullable=True),
    Column("rows_in", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    _text("problem"),
    _text("details"),
    _time("held_at", server_default=func.now()),
    _text("answer", nullable=True),
    _text("answered_by", nullable=True),
    _time("answered_at", nullable=True),
    _one_of("answer", GATE_ANSWERS),
    CheckConstraint("num_nonnulls(answer, answered_by, answered_at) in (0, 3)", name="whole_answer"),
    Index(None, "unit_id"),
)


# Units that an Iceberg table has, and how many of their rows were superseded when they were written to it. The table is
# known by its UUID, so a table that was dropped and made again gets everything again.
lake_units = Table(
    "lake_units",
    metadata,
    _text("table_uuid"),
    Column("unit_id", Text, ForeignKey(work_units.c.unit_id, ondelete="CASCADE"), nullable=False),
    Column("superseded", BigInteger, nullable=False),
    # None: the unit has no accepted caption.
    Column("snapshot_id", BigInteger),
    _time("entered_at", server_default=func.now()),
    PrimaryKeyConstraint("table_uuid", "unit_id"),
)


def _words(table: str, name: str, *columns: str) -> Index:
    """An index for text searches. A query must use exactly one of these expressions."""
    english: ColumnElement[str] = literal_column("'english'::regconfig")
    documents = [func.to_tsvector(english, literal_column(column)) for column in columns]
    # kB of new captions that PostgreSQL adds to the index together. With the default of 4 MB, inserts into a table of
    # 500,000 rows take a sixth longer.
    taken_in = {"gin_pending_list_limit": 16384}
    return Index(f"{table}_{name}_idx", *documents, postgresql_using="gin", postgresql_with=taken_in)


def _caption_columns(*behind_caption: Column[Any]) -> list[Column[Any]]:
    return [
        Column("pair_id", UUID(as_uuid=True), nullable=False),
        Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
        _text("image_url"),
        _text("laion_2b"),
        _text("laion_coco"),
        _text("capsfusion"),
        *behind_caption,
        Column("laion_hash", BigInteger, nullable=False),
        Column("similarity", Double),
        Column("punsafe", Double),
        Column("pwatermark", Double),
        Column("raw_recall", Double),
        Column("synthetic_recall", Double),
        Column("novelty", Double),
        Column("repetition", Double),
        Column("source_overlap", Double),
        Column("prompt_tokens", Integer, nullable=False),
        Column("caption_tokens", Integer, nullable=False),
        _text("finish_reason"),
        _text("laion_2b_shard"),
        Column("laion_2b_row", BigInteger, nullable=False),
        _text("laion_coco_shard"),
        Column("laion_coco_row", BigInteger, nullable=False),
        Column("unit_id", Text, ForeignKey(work_units.c.unit_id), nullable=False),
        _text("dag_run_id", nullable=True),
        _time("loaded_at", server_default=func.now()),
        Column("fact_recall", Double),
        Column("invention", Double),
        Column("caption_words", Integer),
        Column("flags", ARRAY(Text), nullable=False, server_default="{}"),
    ]


def _reasons() -> Column[Any]:
    return Column("reasons", ARRAY(Text), nullable=False)


def _other_beams() -> Column[Any]:
    """The other captions of the beam search, as ``schemas.OTHER_BEAMS``. Null where the fusion does not keep them."""
    return Column("other_beams", JSONB(none_as_null=True))


def _captions(name: str, columns: list[Column[Any]], *indexes: Index) -> Table:
    """A table of captions with the indexes that both tables have. docs/queries.md says what each is for."""
    return Table(
        name,
        metadata,
        *columns,
        PrimaryKeyConstraint("pair_id", "fusion_id"),
        Index(None, "unit_id"),
        # Hash indexes for equality: their size does not depend on the text's length, and updates are cheaper.
        Index(None, "image_url", postgresql_using="hash"),
        Index(None, "loaded_at", "pair_id"),
        Index(None, "fusion_id", "loaded_at", "pair_id"),
        Index(None, "laion_2b_shard"),
        Index(None, "laion_coco_shard"),
        Index(None, "flags", postgresql_using="gin"),
        _words(name, "words", "capsfusion"),
        _words(name, "source_words", "laion_2b", "laion_coco"),
        *indexes,
    )


# Under a fusion_id, a pair is in one of these two tables.
fused_captions = _captions(
    "fused_captions",
    [
        *_caption_columns(),
        # Where the fusion keeps beams: which of the search's captions it is (1: the best), and why the best one was
        # rejected, if another one replaced it.
        Column("beam", Integer),
        Column("rescued_from", ARRAY(Text)),
    ],
    Index("fused_captions_rescued_idx", "unit_id", postgresql_where=literal_column("rescued_from is not null")),
    Index(None, "capsfusion", postgresql_using="hash"),
)
rejected_captions = _captions(
    "rejected_captions",
    [*_caption_columns(_reasons()), _other_beams()],
    Index(None, "reasons", postgresql_using="gin"),
)

# Captions that a replay moved out of rejected_captions. ``replayed_by`` is the replay's unit.
replayed_captions = Table(
    "replayed_captions",
    metadata,
    *_caption_columns(_reasons()),
    Column("replayed_by", Text, ForeignKey(work_units.c.unit_id), nullable=False),
    _time("replayed_at", server_default=func.now()),
    _other_beams(),
    PrimaryKeyConstraint("pair_id", "unit_id"),
    Index(None, "unit_id"),
    Index(None, "replayed_by"),
)

# What people say of captions. ``capsfusion``: the caption that was judged; a replay may have replaced it since.
judgements = Table(
    "judgements",
    metadata,
    Column("pair_id", UUID(as_uuid=True), nullable=False),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    _text("judged_by"),
    _text("laion_2b"),
    _text("laion_coco"),
    _text("capsfusion"),
    _text("verdict"),
    _text("note", server_default=""),
    _time("judged_at", server_default=func.now()),
    PrimaryKeyConstraint("pair_id", "fusion_id", "judged_by"),
    _one_of("verdict", JUDGEMENTS),
)
