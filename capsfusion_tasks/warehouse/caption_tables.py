"""The tables of captions and of judgements of captions. A test compares them with the migrations.

A fusion_id stands for a model and its decoding settings (table ``fusions``). ``metadata`` has all tables of the
warehouse, because this module also imports the ledger's tables.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from capsfusion_tasks.warehouse.ledger_tables import fusions, work_units
from capsfusion_tasks.warehouse.schema import metadata, one_of, text_column, time_column

# The verdicts that people choose from: good to train on, usable in spite of a minor fault, too bad to train on.
JUDGEMENTS = ("good", "minor", "bad")


def _words(table: str, name: str, *columns: str) -> Index:
    """An index for text searches. PostgreSQL uses it only for queries with exactly the same ``to_tsvector(…)``."""
    english: ColumnElement[str] = literal_column("'english'::regconfig")
    documents = [func.to_tsvector(english, literal_column(column)) for column in columns]
    # PostgreSQL collects new captions up to this size (in kB), then adds them to the index together. With the default
    # of 4 MB, inserts into a table of 500,000 rows take one sixth longer.
    taken_in = {"gin_pending_list_limit": 16384}
    return Index(f"{table}_{name}_idx", *documents, postgresql_using="gin", postgresql_with=taken_in)


def _caption_columns(*behind_caption: Column[Any]) -> list[Column[Any]]:
    return [
        Column("pair_id", UUID(as_uuid=True), nullable=False),
        Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
        text_column("image_url"),
        text_column("laion_2b"),
        text_column("laion_coco"),
        text_column("capsfusion"),
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
        text_column("finish_reason"),
        text_column("laion_2b_shard"),
        Column("laion_2b_row", BigInteger, nullable=False),
        text_column("laion_coco_shard"),
        Column("laion_coco_row", BigInteger, nullable=False),
        Column("unit_id", Text, ForeignKey(work_units.c.unit_id), nullable=False),
        text_column("dag_run_id", nullable=True),
        time_column("loaded_at", server_default=func.now()),
        Column("fact_recall", Double),
        Column("invention", Double),
        Column("caption_words", Integer),
        Column("flags", ARRAY(Text), nullable=False, server_default="{}"),
    ]


def _license() -> Column[Any]:
    """The image's licence, from LAION's column LICENSE.

    Most rows of LAION have a question mark in this column. The question mark is stored as null, which takes no space.
    """
    return text_column("license", nullable=True)


def _reasons() -> Column[Any]:
    return Column("reasons", ARRAY(Text), nullable=False)


def _other_beams() -> Column[Any]:
    """The other captions of the beam search (``schemas.OTHER_BEAMS``). Null if the fusion has ``keep_beams`` off."""
    return Column("other_beams", JSONB(none_as_null=True))


def _captions(name: str, columns: list[Column[Any]], *indexes: Index) -> Table:
    """A table of captions, with its own ``indexes`` and those that all such tables have (see docs/queries.md)."""
    return Table(
        name,
        metadata,
        *columns,
        PrimaryKeyConstraint("pair_id", "fusion_id"),
        Index(None, "unit_id"),
        # A hash index, because queries only test URLs for equality. Its size does not depend on the length of the URLs,
        # and updates are cheaper than in a B-tree.
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


# For each fusion_id, a pair is in at most one of the tables fused_captions and rejected_captions.
fused_captions = _captions(
    "fused_captions",
    [
        *_caption_columns(),
        # ``beam``: the caption's rank in the beam search, 1 for the best. ``rescued_from``: why validation rejected the
        # best caption; null if this caption is the best one. Both are null if the fusion has ``keep_beams`` off.
        Column("beam", Integer),
        Column("rescued_from", ARRAY(Text)),
        _license(),
    ],
    Index("fused_captions_rescued_idx", "unit_id", postgresql_where=literal_column("rescued_from is not null")),
    # This is not a hash index, because inserting a caption into a hash index walks through all equal captions. The
    # B-tree has digests, because it cannot store long captions: a row of a B-tree has at most 2,704 bytes. The digests
    # are uuids, because a uuid takes half as many bytes as the same digest in text form.
    Index("fused_captions_digest_idx", literal_column("(md5(capsfusion)::uuid)")),
)
rejected_captions = _captions(
    "rejected_captions",
    [*_caption_columns(_reasons()), _other_beams(), _license()],
    Index(None, "reasons", postgresql_using="gin"),
)

# Rejected captions whose pairs a replay fused again. The replay moved them here from rejected_captions.
# ``replayed_by``: the replay's unit with the new captions.
replayed_captions = Table(
    "replayed_captions",
    metadata,
    *_caption_columns(_reasons()),
    Column("replayed_by", Text, ForeignKey(work_units.c.unit_id), nullable=False),
    time_column("replayed_at", server_default=func.now()),
    _other_beams(),
    _license(),
    PrimaryKeyConstraint("pair_id", "unit_id"),
    Index(None, "unit_id"),
    Index(None, "replayed_by"),
)

# People's judgements of captions. ``capsfusion``: the judged caption. The pair may have another caption by now.
judgements = Table(
    "judgements",
    metadata,
    Column("pair_id", UUID(as_uuid=True), nullable=False),
    Column("fusion_id", Text, ForeignKey(fusions.c.fusion_id), nullable=False),
    text_column("judged_by"),
    text_column("laion_2b"),
    text_column("laion_coco"),
    text_column("capsfusion"),
    text_column("verdict"),
    text_column("note", server_default=""),
    time_column("judged_at", server_default=func.now()),
    PrimaryKeyConstraint("pair_id", "fusion_id", "judged_by"),
    one_of("verdict", JUDGEMENTS),
)
