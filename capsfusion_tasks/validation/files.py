"""Verdicts for the captions of a file (``capsfusion validate``), however large it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from capsfusion_tasks.caption_files import open_caption_file
from capsfusion_tasks.storage import Storage
from capsfusion_tasks.validation.validate import validate_table

ROWS_AT_ONCE = 16_384


@dataclass
class FileVerdicts:
    """``reasons``: the rows that each applies to; a row with two counts under both. ``examples``: a caption of each."""

    rows: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str | None] = field(default_factory=dict)


def validate_file(source: Path, caption_column: str = "capsfusion", out: Path | None = None) -> FileVerdicts:
    """Judge all captions of ``source``; ``out`` (Parquet) gets every row with its reasons and scores.

    Raises InputError for a file that cannot be read.
    """
    file = open_caption_file(source, ["laion_2b", "laion_coco", caption_column])
    found = FileVerdicts()

    def judged() -> Iterator[pa.Table]:
        for captions in file.captions(ROWS_AT_ONCE):
            verdicts = validate_table(captions, caption_column)
            _count(verdicts, caption_column, found)
            yield verdicts

    if out:
        no_rows = pa.schema([(name, pa.string()) for name in file.columns]).empty_table()
        schema = validate_table(no_rows, caption_column).schema
        Storage(str(out.absolute().parent)).write_tables(out.name, schema, judged())
    else:
        for _ in judged():
            pass
    return found


def _count(verdicts: pa.Table, caption_column: str, found: FileVerdicts) -> None:
    for caption, reasons in zip(verdicts[caption_column].to_pylist(), verdicts["reasons"].to_pylist(), strict=True):
        found.rows += 1
        found.accepted += not reasons
        found.reasons.update(reasons)
        for reason in reasons:
            found.examples.setdefault(reason, caption)
