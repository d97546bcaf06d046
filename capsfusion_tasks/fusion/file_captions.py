"""Reads the captions of fused files from the chunks that ranks (torchrun's processes) wrote.

The captions are in the order of the files' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.chunks import input_digest
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.finished import FinishedRows
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS, PairColumns
from capsfusion_tasks.schemas import fused_schema
from capsfusion_tasks.staging.storage import Storage

# A function that chooses between the captions of a row's beam search. It gets a table with the raw and the synthetic
# caption, the best caption of the search, and the search's other captions. It returns the same rows with the chosen
# caption. The column ``beam`` has the number of the chosen caption (1: the best of the search).
TakeBeam = Callable[[pa.Table], pa.Table]


class FailedRow(NamedTuple):
    """A row without a caption: its number in its file (from 1), the reason, and its id if the file has an id column."""

    row: int
    reason: str
    row_id: str | None
    file: Path


class FileCaptions:
    """Reads the captions of files piece by piece. Also adds up the figures of fusing, and collects failed rows."""

    def __init__(self, job: FuseJob, columns: PairColumns, storage: Storage, take_beam: TakeBeam | None) -> None:
        self._job, self._columns, self._take_beam = job, columns, take_beam
        self._schema = fused_schema(with_beams=take_beam is not None)
        self._finished = FinishedRows(storage, job.chunks, job.fusion_id, self._schema.names)
        self.figures = replace(self._finished.figures, rows=0, prompt_tokens=0, caption_tokens=0)
        self.failed: list[FailedRow] = []
        self.rescued = 0

    def of(self, source: CaptionFile) -> Iterator[str | None]:
        """The caption of each row of ``source``. Call this for all files, in the order in which rows were numbered.

        Raises InputError for a row whose pair has changed since it was fused.
        """
        first = self.figures.rows
        for piece in source.captions(self._job.piece_rows or 1):
            start = self.figures.rows
            fused = self._fused(source, piece, first)
            taken = self._taken(piece, fused)
            tokens = (sum(made[name] for made in fused) for name in ("prompt_tokens", "caption_tokens"))
            self.figures += Figures(len(fused), *tokens)
            for place, (made, caption) in enumerate(zip(fused, taken, strict=True)):
                reason = made["finish_reason"]
                failed = reason.startswith("error")
                if failed:
                    reason = self._columns.in_words_of_the_file(reason.removeprefix("error: "))
                    key = self._columns.row_id
                    row_id = None if key is None else piece[key][place].as_py()
                    self.failed.append(FailedRow(start - first + place + 1, reason, row_id, source.source))
                yield None if failed else caption

    def _taken(self, piece: pa.Table, fused: list[dict[str, Any]]) -> list[str]:
        """The chosen caption of each row. The chosen caption need not be the best of the beam search."""
        if self._take_beam is None:
            return [made["capsfusion"] for made in fused]
        pairs, made = self._columns.pairs(piece), pa.Table.from_pylist(fused, self._schema)
        taken = self._take_beam(pa.table([*pairs.columns, *made.columns], [*pairs.column_names, *made.column_names]))
        self.rescued += sum(beam > 1 for beam in taken["beam"].to_pylist())
        captions: list[str] = taken["capsfusion"].to_pylist()
        return captions

    def _fused(self, source: CaptionFile, piece: pa.Table, first: int) -> list[dict[str, Any]]:
        """The finished rows of ``piece``, a part of ``source``. ``first`` is the row number of the file's first row."""
        start = self.figures.rows
        finished: dict[tuple[int, bytes], dict[str, Any]] = {}
        for made in self._finished.between(start, start + piece.num_rows).to_pylist():
            finished.setdefault((made["row"], made["input"]), made)
        rows = []
        for row, pair in enumerate(self._columns.pairs(piece).to_pylist(), start=start):
            made = finished.get((row, input_digest(*(pair[name] for name in CAPTION_COLUMNS))))
            if made is None:
                raise InputError(
                    f"{source.source} changed while it was fused: row {row - first + 1} has other captions now. Run the"
                    " same command again: it fuses only rows that changed"
                )
            rows.append(made)
        return rows
