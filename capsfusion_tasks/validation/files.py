"""Verdicts for the captions of a file (``capsfusion validate``), however large it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from capsfusion_tasks.caption_files import open_caption_file
from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import DEFAULTS
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.validate import validate_table

ROWS_AT_ONCE = 16_384  # in which the same caption is looked for, too
BINS = 25
LONGEST = 100  # words; longer captions count in the last bin


@dataclass
class FileVerdicts:
    """What a file's verdicts add up to, and how each score is distributed: score → rows in ``BINS`` equal bins.

    The bins reach from 0 to 1, those of ``caption_words`` from 0 to ``LONGEST``.
    """

    tally: Tally
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(BINS, np.int64) for name in SCORES.names}
    )

    def add(self, judged: pa.Table, caption_column: str) -> None:
        self.tally.add(judged, caption_column)
        for name, counts in self.histograms.items():
            top = LONGEST if name == "caption_words" else 1
            values = judged[name].drop_null().to_numpy()
            counts += np.histogram(np.minimum(values, top), BINS, (0, top))[0]


def validate_file(
    source: Path,
    caption_column: str = "capsfusion",
    out: Path | None = None,
    *,
    settings: RuleSettings = DEFAULTS,
    examples: int = 1,
    on_rows: Callable[[int], None] | None = None,
) -> FileVerdicts:
    """Judge all captions of ``source``; ``out`` (Parquet) gets every row with its reasons and scores.

    Keeps ``examples`` of each reason and flag. ``on_rows`` is told how many rows are judged. Raises InputError for a
    file that cannot be read.
    """
    file = open_caption_file(source, ["laion_2b", "laion_coco", caption_column])
    found = FileVerdicts(Tally(examples_max=examples))

    def judged() -> Iterator[pa.Table]:
        for captions in file.captions(ROWS_AT_ONCE):
            verdicts = validate_table(captions, caption_column, settings)
            found.add(verdicts, caption_column)
            if on_rows:
                on_rows(found.tally.rows)
            yield verdicts

    if out:
        no_rows = pa.schema([(name, pa.string()) for name in file.columns]).empty_table()
        schema = validate_table(no_rows, caption_column).schema
        Storage(str(out.absolute().parent)).write_tables(out.name, schema, judged())
    else:
        for _ in judged():
            pass
    return found
