"""Computes verdicts for the captions of a file of any size (``capsfusion validate``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from capsfusion_tasks.caption_files import open_caption_file
from capsfusion_tasks.caption_files.base import MissingColumns
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.output import Verdict, check_columns, write_verdicts
from capsfusion_tasks.validation.rules import DEFAULTS
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.validate import JUDGED, validate_table

ROWS_AT_ONCE = 16_384  # rows per batch; the rule ``same_caption`` counts equal captions only within a batch
BINS = 25
LONGEST = 100  # in words; the last bin of the histogram also counts captions with more words


@dataclass
class Trial:
    """How the verdicts change if one threshold has another value (``settings``).

    ``reasons``: for each reason, the number of rows that newly get it, minus the number of rows that no longer have it.
    """

    label: str
    settings: RuleSettings
    newly_rejected: int = 0
    newly_accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, before: pa.Table, after: pa.Table) -> None:
        for old, new in zip(before["reasons"].to_pylist(), after["reasons"].to_pylist(), strict=True):
            self.newly_rejected += not old and bool(new)
            self.newly_accepted += bool(old) and not new
            self.reasons.update(set(new) - set(old))
            self.reasons.subtract(set(old) - set(new))

    def line(self, rows: int) -> str:
        changed = self.newly_rejected + self.newly_accepted
        counts = ", ".join(f"{code} {count:+,}" for code, count in self.reasons.most_common() if count)
        return (
            f"with {self.label}: {changed:,} of {rows:,} verdicts change, {self.newly_rejected:,} to rejected and"
            f" {self.newly_accepted:,} to accepted{f' ({counts})' if counts else ''}"
        )


@dataclass
class FileVerdicts:
    """The counts of a file's verdicts, and a histogram of each score: the number of rows in each of ``BINS`` bins.

    The bins have equal widths. They span 0 to 1, or 0 to ``LONGEST`` for the score ``caption_words``.
    """

    tally: Tally
    settings: RuleSettings = DEFAULTS
    trials: list[Trial] = field(default_factory=list)
    histograms: dict[str, np.ndarray] = field(
        default_factory=lambda: {name: np.zeros(BINS, np.int64) for name in SCORES.names}
    )

    def add(self, judged: pa.Table) -> None:
        self.tally.add(judged, "capsfusion")
        for name, counts in self.histograms.items():
            top = LONGEST if name == "caption_words" else 1
            values = judged[name].drop_null().to_numpy()
            counts += np.histogram(np.minimum(values, top), BINS, (0, top))[0]


def tried_settings(changes: Sequence[str], settings: RuleSettings) -> list[Trial]:
    """Make a trial of each change ("name=value"). Raises InputError for an unknown threshold or a wrong value."""
    trials = []
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or name not in RuleSettings.model_fields:
            known = ", ".join(RuleSettings.model_fields)
            raise InputError(f"cannot try {change!r}: expected name=value, where name is one of {known}")
        try:
            tried = RuleSettings.model_validate({**settings.model_dump(), name: value})
        except ValidationError as error:
            raise InputError(f"cannot try {change!r}: {error.errors()[0]['msg']}") from error
        trials.append(Trial(f"{name}={getattr(tried, name)} instead of {getattr(settings, name)}", tried))
    return trials


def validate_file(
    source: Path,
    caption_column: str = "capsfusion",
    out: Path | None = None,
    *,
    raw_column: str = "laion_2b",
    synthetic_column: str = "laion_coco",
    settings: RuleSettings = DEFAULTS,
    examples: int = 1,
    trials: Sequence[Trial] = (),
    on_rows: Callable[[int], None] | None = None,
) -> FileVerdicts:
    """Judge all captions of ``source``. If ``out`` is given, writes the columns, reasons, flags and scores to ``out``.

    Keeps at most ``examples`` captions for each reason and flag, and counts the verdicts that each of ``trials`` would
    change. Calls ``on_rows`` with the number of rows judged so far. Raises InputError if the file cannot be read, or
    already has columns that the verdicts would replace in ``out``.
    """
    columns = [raw_column, synthetic_column, caption_column]
    try:
        file = open_caption_file(source, columns)
    except MissingColumns as error:
        raise InputError(
            f"{error}: name the columns with --raw-column, --synthetic-column and --column, or fuse the file first"
        ) from error
    if out:
        check_columns(file)
    found = FileVerdicts(Tally(examples_max=examples), settings, list(trials))

    def judged() -> Iterator[Verdict]:
        for table in file.captions(ROWS_AT_ONCE):
            captions = pa.table([table[name] for name in columns], ["laion_2b", "laion_coco", "capsfusion"])
            verdicts = validate_table(captions, settings=settings)
            found.add(verdicts)
            for trial in found.trials:
                trial.add(verdicts, validate_table(captions, settings=trial.settings))
            if on_rows:
                on_rows(found.tally.rows)
            yield from zip(*(verdicts[name].to_pylist() for name in JUDGED.names), strict=True)

    if out:
        write_verdicts(out, file, judged())
    else:
        for _ in judged():
            pass
    return found
