"""Maps the column names and column types of LAION's releases to one schema, the canonical columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.image_status import is_gone
from capsfusion_tasks.schemas import BUCKET_ROWS, Side
from capsfusion_tasks.settings import Settings

# Canonical name of a column → its names in laion2B-en, laion2B-en-joined, laion-coco and their Re-LAION successors.
# Case is ignored.
_NAMES = {
    "url": ("url",),
    "text": ("text", "caption", "alt_text"),
    "synthetic": ("top_caption",),
    "similarity": ("similarity",),
    "punsafe": ("punsafe",),
    "pwatermark": ("pwatermark",),
    "license": ("license",),
    "gone": ("status",),
}

_TEXTS = ("url", "text", "synthetic")
# The types in which columns are read. ``gone`` is read as text, because it is computed from the text column ``status``.
_READ = BUCKET_ROWS.set(BUCKET_ROWS.get_field_index("gone"), pa.field("gone", pa.string()))
_EXTRAS = ("license", "gone")  # optional text columns; ignored if they contain numbers or lists
_NO_LICENSE = ("", "?")  # values that count as null; LAION writes a question mark if it found no licence


@dataclass
class Counts:
    """The number of rows of a shard, and the number of dropped rows by reason.

    A row that is dropped for several reasons counts once, for the first of these reasons.
    """

    rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    # Canonical name of a column → the column's name in the shard. Empty if an older version of this project pulled the
    # shard.
    columns: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows


def source_columns(schema: pa.Schema, side: Side, settings: Settings, where: str) -> dict[str, str]:
    """Map the canonical names of the columns of ``side`` to the column names in the file.

    Raises InputError if a required column is missing, if a column has the wrong type, or if the file has a column twice
    (ignoring case).
    """
    spellings: dict[str, list[str]] = {}
    for name in schema.names:
        spellings.setdefault(name.lower(), []).append(name)
    found = {
        canonical: match
        for canonical, names in _NAMES.items()
        if (match := next((spellings[name][0] for name in names if name in spellings), None))
    }
    if missing := sorted({"url", *_captions(side, settings)} - found.keys()):
        wanted = "; ".join(f"{name} (named {' or '.join(_NAMES[name])})" for name in missing)
        optional = missing == ["text"] and side == "laion_coco" and not settings.self_paired
        hint = "; with CAPSFUSION_JOIN_ON=url, LAION-COCO needs no text" if optional else ""
        raise InputError(
            f"{where} lacks a column for {wanted}; it has {', '.join(schema.names)}: replace the file (the new file"
            f" counts as a new shard), or set another source{hint}"
        )
    unread = [name for name in _EXTRAS if name in found and not is_text(schema.field(found[name]).type)]
    for name in [*unread, *(["synthetic"] if side == "laion_2b" else [])]:
        found.pop(name, None)
    # Names are compared without case, so a file with "url" and "URL" is ambiguous.
    if twice := [same for name in found.values() if len(same := spellings[name.lower()]) > 1]:
        raise InputError(
            f"{where} has the same column more than once ({'; '.join(' and '.join(same) for same in twice)}): replace"
            " the file; the new file counts as a new shard"
        )
    wrong = []
    for canonical, name in found.items():
        kind, is_kind = ("text", is_text) if canonical in _TEXTS + _EXTRAS else ("a number", _is_number)
        if not is_kind(schema.field(name).type):
            wrong.append(f"{name} is {schema.field(name).type}, expected {kind}")
    if wrong:
        raise InputError(f"{where}: {'; '.join(wrong)}: replace the file; the new file counts as a new shard")
    return found


def _captions(side: Side, settings: Settings) -> list[str]:
    """The caption columns that a row of ``side`` needs to form a pair."""
    if side == "laion_2b":
        return ["text"]
    return ["synthetic", "text"] if settings.join_on == "url_text" or settings.self_paired else ["synthetic"]


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    # Binary counts as text, because Parquet files of old writers do not say that their bytes are text.
    return any(check(kind) for check in (*checks, pa.types.is_binary, pa.types.is_large_binary))


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(check(kind) for check in checks)


def canonical_rows(
    batch: pa.RecordBatch, names: dict[str, str], first_row: int, side: Side, settings: Settings, counts: Counts
) -> pa.Table:
    """Convert the batch to the columns of BUCKET_ROWS, and add the column ``usable``: whether the row can form a pair.

    Texts stay unchanged. Unusable rows stay in the table, because filtering would copy all rows. The number of unusable
    rows by reason is added to ``counts``.
    """
    columns = {name: as_type(batch[names[name]], _READ.field(name).type) for name in names}
    if "license" in columns:
        named = pc.utf8_trim_whitespace(columns["license"])
        columns["license"] = pc.if_else(pc.is_in(named, value_set=pa.array(_NO_LICENSE)), None, named)
    if "gone" in columns:
        columns["gone"] = is_gone(columns["gone"])
    columns["row"] = pa.array(np.arange(first_row, first_row + batch.num_rows))
    absent = {f.name: pa.nulls(batch.num_rows, f.type) for f in BUCKET_ROWS if f.name not in columns}
    table = pa.table({**columns, **absent}).select(BUCKET_ROWS.names)

    counts.rows += table.num_rows
    refused = {
        "null_url": is_blank(table["url"]),
        "null_caption": reduce(pc.or_, (is_blank(table[name]) for name in _captions(side, settings))),
        "unsafe": _at_least(table["punsafe"], settings.punsafe_max),
        "watermarked": _at_least(table["pwatermark"], settings.pwatermark_max),
    }
    if settings.unscored == "drop":
        refused["unscored"] = pc.or_(pc.is_null(table["punsafe"]), pc.is_null(table["pwatermark"]))
    usable = pa.repeat(True, table.num_rows)
    for reason, mask in refused.items():
        counts.drop(reason, pc.sum(pc.and_(usable, mask)).as_py() or 0)
        usable = pc.and_not(usable, mask)
    return table.append_column("usable", usable)


def as_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Convert the column to type ``wanted``. Releases store numbers as int or float, and text in several types."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(wanted):
        # Round to six decimals: the same score is 0.46 as float64 in one release and 0.46000000834 as float32 in
        # another.
        # safe=False: accept integers above 2^53, which become the nearest float. A safe cast would fail for them.
        scores = pc.round(column.cast(wanted, safe=False), 6)
        # Replace infinity and NaN, which pandas writes for a missing score, by null. Otherwise a row whose punsafe is
        # NaN would pass the check for unsafe images, and a join would prefer NaN to a number.
        return pc.if_else(pc.is_finite(scores), scores, None)
    if not pa.types.is_string(wanted):
        return column.cast(wanted)
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:  # invalid UTF-8, which Parquet does not forbid: keep the row and replace the bytes
        raw = column.cast(pa.binary()).to_pylist()
        text = pa.array([None if value is None else value.decode("utf-8", "replace") for value in raw], pa.string())
    return text


def is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column)), True)


def _at_least(column: pa.ChunkedArray, limit: float) -> pa.ChunkedArray:
    return pc.fill_null(pc.greater_equal(column, limit), False)  # a row without a score does not reach the limit
