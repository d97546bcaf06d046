"""Computes scores and verdicts for a table of captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import SCORES, VALIDATED
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import DEFAULTS, flags, reasons
from capsfusion_tasks.validation.scores import Fused, scores

# A function that looks up fused captions in the warehouse. For each fused caption, it returns the raw captions of all
# rows with this fused caption. Fused captions that no row has may be missing from the result.
RawsByCaption = Callable[[Set[str]], Mapping[str, Set[str]]]

# The columns that validation adds.
JUDGED = pa.schema([*SCORES, *(VALIDATED.field(name) for name in ("reasons", "flags"))])


def validate_table(
    table: pa.Table,
    caption_column: str = "capsfusion",
    settings: RuleSettings = DEFAULTS,
    loaded: RawsByCaption | None = None,
) -> pa.Table:
    """Add the columns of ``schemas.SCORES``, ``reasons`` and ``flags``. Replaces columns with these names.

    ``table`` must have ``laion_2b``, ``laion_coco`` and ``caption_column``, and may have ``finish_reason``. A null
    counts as an empty text. For the rule ``same_caption``, equal captions are counted in the table and, if ``loaded``
    is given, in the warehouse. Raises InputError for a column that is missing or does not contain text.
    """
    raws, synthetics, captions = (_texts(table, name) for name in ("laion_2b", "laion_coco", caption_column))
    known = "finish_reason" in table.column_names
    finish_reasons = _texts(table, "finish_reason") if known else [None] * table.num_rows
    raws_with = _raws_with_caption(captions, raws, loaded)
    judged = [
        _judge(Fused(*row), settings) for row in zip(raws, synthetics, captions, finish_reasons, raws_with, strict=True)
    ]
    table = table.drop_columns([name for name in JUDGED.names if name in table.column_names])
    columns = zip(*judged, strict=True) if judged else [()] * len(JUDGED)
    for field, values in zip(JUDGED, columns, strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table


def _judge(fused: Fused, settings: RuleSettings) -> tuple[object, ...]:
    """The values of ``JUDGED`` for one caption."""
    return (*scores(fused).values(), reasons(fused, settings), flags(fused, settings))


def _raws_with_caption(captions: list[str], raws: list[str], loaded: RawsByCaption | None) -> list[int]:
    """For each row, the number of different raw captions that share the row's fused caption.

    Counts the raw captions in ``raws`` and those that ``loaded`` finds in the warehouse.
    """
    found: dict[str, set[str]] = {}
    for caption, raw in zip(captions, raws, strict=True):
        found.setdefault(caption, set()).add(raw)
    if loaded is not None:
        for caption, others in loaded(found.keys()).items():
            found[caption] |= others
    return [len(found[caption]) for caption in captions]


def _texts(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        raise InputError(f"there is no column {name!r}; found {', '.join(table.column_names)}")
    try:
        return [text or "" for text in table[name].cast(pa.string()).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"column {name!r} contains {table[name].type}, not text: {error}") from error
