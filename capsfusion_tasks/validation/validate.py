"""Verdicts for a unit's captions, and for a table from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Set

import pyarrow as pa

from capsfusion_tasks import layout
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import FUSED, SCORES, VALIDATED, Unit
from capsfusion_tasks.storage import Storage
from capsfusion_tasks.validation.rules import DEFAULTS, flags, reasons
from capsfusion_tasks.validation.scores import Fused, scores
from capsfusion_tasks.validation.thresholds import RuleSettings

# For captions: the raw captions that each was loaded for; captions without any may be left out.
RawsByCaption = Callable[[Set[str]], Mapping[str, Set[str]]]

JUDGED = pa.schema([*SCORES, *(VALIDATED.field(name) for name in ("reasons", "flags"))])  # the columns that are added


def validate_unit(
    storage: Storage, unit: Unit, settings: RuleSettings = DEFAULTS, loaded: RawsByCaption | None = None
) -> pa.Table:
    """Judge all captions of ``unit`` and publish ``units/<unit_id>/validated.parquet``, in the order of its pairs.

    Returns what it published (``schemas.VALIDATED``). ``loaded`` tells what the warehouse has. Raises InputError where
    a row of the unit is not fused, or fused twice.
    """
    pairs = storage.read_table(layout.unit_pairs(unit.unit_id))
    chunks = [path for path in storage.files(layout.chunks_folder(unit.unit_id)) if path.endswith(".parquet")]
    fused = pa.concat_tables([FUSED.empty_table(), *(storage.read_table(path).cast(FUSED) for path in chunks)])
    fused = fused.sort_by("row")
    _check_rows(unit, pairs.num_rows, fused["row"].to_pylist())
    for name in fused.column_names[1:]:
        pairs = pairs.append_column(name, fused[name])
    validated = validate_table(pairs, settings=settings, loaded=loaded).select(VALIDATED.names).cast(VALIDATED)
    storage.write_table(layout.unit_validated(unit.unit_id), validated)
    return validated


def validate_table(
    table: pa.Table,
    caption_column: str = "capsfusion",
    settings: RuleSettings = DEFAULTS,
    loaded: RawsByCaption | None = None,
) -> pa.Table:
    """``table`` with the columns of ``schemas.SCORES``, ``reasons`` and ``flags``; what has these names is replaced.

    It needs ``laion_2b``, ``laion_coco`` and ``caption_column``, and uses ``finish_reason`` where there is one. A null
    is an empty text. The same caption for many pairs is looked for in the table and in what is ``loaded``. Raises
    InputError for a column that is missing or holds no text.
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
    """For each row: how many different raw captions have its caption, in these rows and in what is loaded."""
    found: dict[str, set[str]] = {}
    for caption, raw in zip(captions, raws, strict=True):
        found.setdefault(caption, set()).add(raw)
    if loaded is not None:
        for caption, others in loaded(found.keys()).items():
            found[caption] |= others
    return [len(found[caption]) for caption in captions]


def _check_rows(unit: Unit, rows: int, found: list[int]) -> None:
    times = Counter(found)
    problems = {
        "not fused": [row for row in range(rows) if row not in times],
        "fused more than once": [row for row, n in times.items() if n > 1],
        "not in the unit": [row for row in times if not 0 <= row < rows],
    }
    said = [f"rows {what}: {_few(wrong)}" for what, wrong in problems.items() if wrong]
    if said:
        raise InputError(
            f"unit {unit.unit_id} has {rows} rows and its chunks do not fit ({'; '.join(said)}): "
            "run its fuse task again, it fuses only what is missing"
        )


def _few(rows: list[int], limit: int = 10) -> str:
    more = f" and {len(rows) - limit} more" if len(rows) > limit else ""
    return ", ".join(str(row) for row in rows[:limit]) + more


def _texts(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        raise InputError(f"there is no column {name!r}; found {', '.join(table.column_names)}")
    try:
        return [text or "" for text in table[name].cast(pa.string()).to_pylist()]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise InputError(f"column {name!r} holds {table[name].type}, not text: {error}") from error
