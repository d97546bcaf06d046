"""Verdicts for a unit's captions, and for a table from elsewhere."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from capsfusion_tasks import layout
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import FUSED, SCORES, VALIDATED, Unit
from capsfusion_tasks.storage import Storage
from capsfusion_tasks.validation.rules import flags, reasons
from capsfusion_tasks.validation.scores import Fused, scores

VERDICTS = {"reasons": reasons, "flags": flags}  # column → what fills it


class ValidationCounts(BaseModel):
    """How the rows of a unit were judged. A row with two reasons counts under both of them."""

    model_config = ConfigDict(frozen=True)

    rows: int
    accepted: int
    rejected: int
    reasons: dict[str, int]


def validate_unit(storage: Storage, unit: Unit) -> ValidationCounts:
    """Judge all captions of ``unit`` and publish ``units/<unit_id>/validated.parquet``, in the order of its pairs.

    Raises InputError where a row of the unit is not fused, or fused twice.
    """
    pairs = storage.read_table(layout.unit_pairs(unit.unit_id))
    chunks = [path for path in storage.files(layout.chunks_folder(unit.unit_id)) if path.endswith(".parquet")]
    fused = pa.concat_tables([FUSED.empty_table(), *(storage.read_table(path).cast(FUSED) for path in chunks)])
    fused = fused.sort_by("row")
    _check_rows(unit, pairs.num_rows, fused["row"].to_pylist())
    for name in fused.column_names[1:]:
        pairs = pairs.append_column(name, fused[name])
    validated = validate_table(pairs).select(VALIDATED.names).cast(VALIDATED)
    storage.write_table(layout.unit_validated(unit.unit_id), validated)
    return count(validated)


def validate_table(table: pa.Table, caption_column: str = "capsfusion") -> pa.Table:
    """``table`` with the columns of ``schemas.SCORES``, ``reasons`` and ``flags``; what has these names is replaced.

    It needs ``laion_2b``, ``laion_coco`` and ``caption_column``, and uses ``finish_reason`` where there is one. A null
    is an empty text. Raises InputError for a column that is missing or holds no text.
    """
    columns = [_texts(table, name) for name in ("laion_2b", "laion_coco", caption_column)]
    known = "finish_reason" in table.column_names
    finish_reasons = _texts(table, "finish_reason") if known else [None] * table.num_rows
    cases = [Fused(*row) for row in zip(*columns, finish_reasons, strict=True)]
    table = table.drop_columns([name for name in (*SCORES.names, *VERDICTS) if name in table.column_names])
    judged = [scores(case) for case in cases]
    for field in SCORES:
        table = table.append_column(field, pa.array([row[field.name] for row in judged], field.type))
    for name, judge in VERDICTS.items():
        field = VALIDATED.field(name)
        table = table.append_column(field, pa.array([judge(case) for case in cases], field.type))
    return table


def count(validated: pa.Table) -> ValidationCounts:
    """The counts of a table that has the column ``reasons``."""
    rejected = pc.sum(pc.greater(pc.list_value_length(validated["reasons"]), 0), min_count=0).as_py()
    found = Counter(pc.list_flatten(validated["reasons"]).to_pylist())
    return ValidationCounts(
        rows=validated.num_rows,
        accepted=validated.num_rows - rejected,
        rejected=rejected,
        reasons=dict(found.most_common()),
    )


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
