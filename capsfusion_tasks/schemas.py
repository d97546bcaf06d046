"""The Arrow schemas of all files that stages exchange. ``docs/architecture.md`` says where each file is."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.intervals import UtcTime, refuse_empty_span

# A side is one of the three inputs. image_results are the results of image downloads with img2dataset.
Side = Literal["laion_2b", "laion_coco", "image_results"]
PAIRED: tuple[Side, Side] = ("laion_2b", "laion_coco")  # the sides that have captions
Existing = Literal["skip", "replace"]  # what to do with pairs that are fused already


class Shard(BaseModel):
    """A Parquet file of a source, as the discover stage listed it.

    ``source``, ``path`` and ``etag`` identify the shard. ``shard_id`` is a digest of these three fields.
    """

    model_config = ConfigDict(frozen=True)

    shard_id: str
    side: Side
    source: str
    path: str
    etag: str
    size_bytes: int
    arrived_at: datetime
    revision: str = ""  # the commit to read, if the source has commits, such as the Hugging Face hub
    # Why the shard cannot be read, if the discover stage found this out. Such a shard has an empty etag.
    problem: str = ""

    @property
    def label(self) -> str:
        return printable(f"{self.side}/{self.path}")


class Unit(BaseModel):
    """A work unit: the pairs that one fuse task handles. The pairs are in ``units/<unit_id>/pairs.parquet``."""

    model_config = ConfigDict(frozen=True)

    unit_id: str
    fusion_id: str
    rows: int
    tokens: int  # estimated tokens of prompts and captions

    @property
    def label(self) -> str:
        return f"{self.unit_id} ({self.rows} rows)"


class Replay(BaseModel):
    """Selects rejected captions of one fusion, to fuse their pairs again. A caption must meet all conditions.

    A retry finds the replay's units by ``name`` and continues them.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    fusion_id: str  # identifies the model and the settings that made the rejected captions
    reasons: tuple[str, ...] = ()  # rejected for at least one of these reasons; empty: for any reason
    loaded_from: UtcTime | None = None
    loaded_before: UtcTime | None = None
    limit: int | None = None
    filter: CaptionFilter | None = None

    @model_validator(mode="after")
    def _rejected(self) -> Replay:
        if self.filter is not None and not self.filter.of_rejected:
            raise InputError(
                "the filter selects accepted captions, but a replay needs rejected captions: remove the condition"
                " verdict from the filter"
            )
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Replay:
        refuse_empty_span(self.loaded_from, self.loaded_before)
        return self

    @classmethod
    def of_selection(cls, **selection: Any) -> Replay:
        """A replay with the conditions in ``selection``.

        The name is derived from the selection, so the same selection resumes the same replay.
        """
        unnamed = cls(name="", **selection)
        return unnamed.model_copy(update={"name": f"selection {_digest(unnamed.model_dump_json())}"})

    @property
    def key(self) -> str:
        """The name of the replay's folder: a digest of ``name``."""
        return _digest(self.name)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# The pull stage writes `buckets/<side>/<bucket>/<shard_id>.parquet` for the pair stage. The pull stage changes no text.
BUCKET_ROWS = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # raw alt text; null if the LAION-COCO release has no raw text
        pa.field("synthetic", pa.string()),  # LAION-COCO's top_caption; null on the LAION-2B side
        pa.field("similarity", pa.float64()),
        pa.field("punsafe", pa.float64()),
        pa.field("pwatermark", pa.float64()),
        pa.field("row", pa.int64(), nullable=False),  # row number in the shard, from 0
        pa.field("license", pa.string()),  # LAION's LICENSE; null if it is unknown
        pa.field("gone", pa.bool_()),  # whether the image is gone, according to the release; null if unknown
    ]
)

# The plan stage writes `units/<unit_id>/pairs.parquet` for the fuse stage.
PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.binary(16), nullable=False),
        pa.field("image_url", pa.string(), nullable=False),
        pa.field("laion_2b", pa.string(), nullable=False),
        pa.field("laion_coco", pa.string(), nullable=False),
        pa.field("laion_hash", pa.int64(), nullable=False),
        pa.field("similarity", pa.float64()),
        pa.field("punsafe", pa.float64()),
        pa.field("pwatermark", pa.float64()),
        pa.field("laion_2b_shard", pa.string(), nullable=False),
        pa.field("laion_2b_row", pa.int64(), nullable=False),
        pa.field("laion_coco_shard", pa.string(), nullable=False),
        pa.field("laion_coco_row", pa.int64(), nullable=False),
        pa.field("license", pa.string()),
    ]
)

# The pair stage writes `runs/<interval>/pairs/<bucket>.parquet` for the plan stage.
FOUND_PAIRS = PAIRS.append(BUCKET_ROWS.field("gone"))

# The plan stage writes and reads `image_results/<bucket>/<batch>.parquet`, sorted by hash, with each hash once.
IMAGE_RESULTS = pa.schema(
    [
        pa.field("hash", pa.int64(), nullable=False),  # hash of the image's URL
        pa.field("gone", pa.bool_(), nullable=False),
    ]
)

# The columns that fusing adds to a pair.
CAPTION = pa.schema(
    [
        pa.field("capsfusion", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),  # stop | length | error: <what happened>
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("caption_tokens", pa.int32(), nullable=False),  # generated tokens, including EOS
    ]
)

# The fuse stage writes `units/<unit_id>/chunks/00012-<try>.parquet` for the validate stage. Rows are in the order in
# which they were finished.
FUSED = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # row number in the unit, from 0
        pa.field("input", pa.binary(16), nullable=False),  # digest of the row's two source captions
        *CAPTION,
    ]
)

# The captions that the beam search finished besides ``capsfusion``, best first. Files of fusions that keep only the
# best caption do not have this column.
OTHER_BEAMS = pa.field(
    "other_beams",
    pa.list_(pa.struct([CAPTION.field(name) for name in ("capsfusion", "finish_reason", "caption_tokens")])),
)
FUSED_WITH_BEAMS = pa.schema([*FUSED, OTHER_BEAMS])

# The scores that validation computes. They are also columns of the warehouse, so that users can filter captions by SQL.
SCORES = pa.schema(
    [
        pa.field("raw_recall", pa.float64()),  # share of the raw caption's words that are in the fused caption
        pa.field("synthetic_recall", pa.float64()),  # share of the synthetic caption's words in the fused caption
        # Share of the raw caption's names and numbers that are in the fused caption; null if the raw caption has none.
        pa.field("fact_recall", pa.float64()),
        pa.field("novelty", pa.float64()),  # share of the fused caption's words that are in neither source caption
        # Share of the fused caption's names and numbers that are in neither source caption. Null if the fused
        # caption has no names or numbers.
        pa.field("invention", pa.float64()),
        # Share of the fused caption's trigrams (three words in a row) that repeat an earlier trigram.
        pa.field("repetition", pa.float64()),
        pa.field("source_overlap", pa.float64()),  # Jaccard index of the words of the two source captions
        pa.field("caption_words", pa.int32()),
    ]
)

# The validate stage writes `units/<unit_id>/validated.parquet` for the load stage.
VALIDATED = pa.schema(
    [
        *PAIRS,
        *CAPTION,
        *SCORES,
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # why the caption is rejected; empty: accepted
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # doubts about the caption, which do not reject it
    ]
)

# The columns of validated.parquet if the fusion keeps the captions of the other beams.
VALIDATED_WITH_BEAMS = pa.schema(
    [
        *VALIDATED,
        pa.field("beam", pa.int32(), nullable=False),  # the caption's number in the beam search; 1: the best
        pa.field("rescued_from", pa.list_(pa.string())),  # why the best beam's caption was rejected; null if beam is 1
        OTHER_BEAMS,
    ]
)


def with_columns_of(schema: pa.Schema, table: pa.Table) -> pa.Table:
    """Add the nullable columns of ``schema`` that earlier versions did not write. Their values are null."""
    for field in schema:
        if field.nullable and field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def fused_schema(*, with_beams: bool) -> pa.Schema:
    return FUSED_WITH_BEAMS if with_beams else FUSED


def validated_schema(*, with_beams: bool) -> pa.Schema:
    return VALIDATED_WITH_BEAMS if with_beams else VALIDATED


def has_beams(table: pa.Table) -> bool:
    """Whether the rows of a chunk or of ``validated.parquet`` contain the other captions of the beam search."""
    return OTHER_BEAMS.name in table.column_names
