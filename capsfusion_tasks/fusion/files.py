"""``capsfusion fuse``: fuses the pairs of one file into another file, all rows in order, resumable."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from capsfusion_tasks.caption_files import check_target, check_writable, open_caption_file, write_caption_file
from capsfusion_tasks.caption_files.base import CaptionFile, MissingColumns
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.chunks import input_digest
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.finished import FinishedRows
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob, claim_rows
from capsfusion_tasks.fusion.launcher import (
    Torchrun,
    TorchrunFailed,
    environment_defaults,
    gpu_count,
    torchrun_argv,
)
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS, PairColumns, write_pieces
from capsfusion_tasks.fusion.parts_folder import empty, parts_folder
from capsfusion_tasks.fusion.watchdog import Timeouts
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import full_disk
from capsfusion_tasks.staging.storage import Storage

OUTPUT_COLUMN = "capsfusion"
_PAIRS, _CHUNKS = "pairs", "chunks"
_CLAIMS_OF_A_PIECE = 64  # a piece of 4,096 rows is read and written in less time than torchrun needs to start
_LONG_CHECK_BYTES = 256 << 20  # of a file whose check takes seconds


class FailedRow(NamedTuple):
    """A row without a caption: its number from 0, the reason, and its id where the file has a column for it."""

    row: int
    reason: str
    row_id: str | None = None


@dataclass(frozen=True)
class FuseResult:
    figures: Figures
    failed: list[FailedRow]


def fuse_file(
    source: Path,
    target: Path,
    settings: Settings,
    *,
    columns: PairColumns = PairColumns(),  # noqa: B008 (frozen)
    resume: bool = True,
    overwrite: bool = False,
    on_line: Callable[[str], None] = print,
) -> FuseResult:
    """Write ``source``'s rows to ``target``, in the same order and with all columns, and a column ``capsfusion``.

    Finished rows lie in ``<target>.parts`` until all rows are finished; with ``resume`` a second call takes over the
    rows that did not change. A row that cannot be fused, such as one with an empty caption, gets null. Everything that
    would make writing ``target`` fail is found before the first row is fused. Raises InputError for files that cannot
    be read or written and for a ``source`` that changes meanwhile, NotReadyError where another call writes ``target``.
    """
    if columns.raw == columns.synthetic:
        raise InputError(f"the raw and the synthetic caption are both the column {columns.raw}: name two columns")
    try:
        rows = open_caption_file(source, [columns.raw, columns.synthetic], adds=OUTPUT_COLUMN, key=columns.row_id)
    except MissingColumns as error:
        raise InputError(f"{error}: name the captions with --raw-column and --synthetic-column") from error
    check_writable(target, overwrite=overwrite, but=source)
    # This machine plans and fuses, so its device decides unless a setting does.
    here: Literal["cpu", "gpu"] | None = None if settings.device != "auto" else "gpu" if gpu_count() else "cpu"
    decoding = decide(settings, here)

    with parts_folder(target) as parts:
        check_writable(target, overwrite=overwrite, but=source)  # another call may have written it meanwhile
        if source.stat().st_size > _LONG_CHECK_BYTES:
            on_line(f"{source}: checking that {target.name} can hold all rows")
        check_target(target, rows)
        if not resume:
            empty(parts)
        shutil.rmtree(parts / _PAIRS, ignore_errors=True)  # of an earlier try: the file may have changed since
        storage = Storage(str(parts))
        job = FuseJob.of(
            settings,
            decoding,
            staging=str(parts),
            pairs=_PAIRS,
            piece_rows=_CLAIMS_OF_A_PIECE * claim_rows(settings),
            chunks=_CHUNKS,
        )
        argv, timeouts = torchrun_argv(job, settings.nproc_per_node), Timeouts.of(settings)
        torchrun = Torchrun(argv, on_line=on_line, timeouts=timeouts, defaults=environment_defaults(settings))
        _fuse_while_reading(job, rows, columns, storage, torchrun)

        check_writable(target, overwrite=overwrite, but=source)
        fused = _Fused(job, rows, columns, storage)
        with full_disk.explained(target.absolute().parent, target.name):
            write_caption_file(target, rows, fused.captions())
        empty(parts)
    return FuseResult(fused.figures, fused.failed)


def _fuse_while_reading(
    job: FuseJob, rows: CaptionFile, columns: PairColumns, storage: Storage, torchrun: Torchrun
) -> None:
    """Run torchrun, and write the file's pairs for it meanwhile: the first caption waits for one piece only."""
    stopped = threading.Event()

    def pieces() -> Iterator[pa.Table]:
        with rows.unchanged():
            for piece in rows.captions(job.piece_rows or 1):
                if stopped.is_set():
                    raise TorchrunFailed("torchrun ended before it had all pairs")
                yield columns.pairs(piece)

    def give_up(reading: Future[int]) -> None:
        if reading.exception() is not None:
            torchrun.terminate()

    torchrun.start()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pairs") as reader:
        reading = reader.submit(write_pieces, storage, job.pairs, pieces())
        reading.add_done_callback(give_up)
        try:
            torchrun.wait()
        except TorchrunFailed:
            if reading.done():
                reading.result()  # raises what ended both
            raise
        finally:
            stopped.set()
            torchrun.terminate()


class _Fused:
    """Reads the captions of a fused file a piece at a time, and adds up figures and failed rows meanwhile."""

    def __init__(self, job: FuseJob, source: CaptionFile, columns: PairColumns, storage: Storage) -> None:
        self._job, self._source, self._columns = job, source, columns
        self._finished = FinishedRows(storage, job.chunks, job.fusion_id)
        self.figures = replace(self._finished.figures, rows=0, prompt_tokens=0, caption_tokens=0)
        self.failed: list[FailedRow] = []

    def captions(self) -> Iterator[str | None]:
        """Each row's caption, in order. Raises InputError for a row whose pair changed since it was fused."""
        for piece in self._source.captions(self._job.piece_rows or 1):
            start, fused = self.figures.rows, self._fused(piece)
            tokens = (sum(made[name] for made in fused) for name in ("prompt_tokens", "caption_tokens"))
            self.figures += Figures(len(fused), *tokens)
            for place, made in enumerate(fused):
                reason = made["finish_reason"]
                failed = reason.startswith("error")
                if failed:
                    reason = self._columns.in_words_of_the_file(reason.removeprefix("error: "))
                    key = self._columns.row_id
                    row_id = None if key is None else piece[key][place].as_py()
                    self.failed.append(FailedRow(start + place, reason, row_id))
                yield None if failed else made["capsfusion"]

    def _fused(self, piece: pa.Table) -> list[dict[str, Any]]:
        start = self.figures.rows
        finished: dict[tuple[int, bytes], dict[str, Any]] = {}
        for made in self._finished.between(start, start + piece.num_rows).to_pylist():
            finished.setdefault((made["row"], made["input"]), made)
        rows = []
        for row, pair in enumerate(self._columns.pairs(piece).to_pylist(), start=start):
            made = finished.get((row, input_digest(*(pair[name] for name in CAPTION_COLUMNS))))
            if made is None:
                raise InputError(
                    f"{self._source.source} changed while it was fused: row {row + 1} has other captions now. Run the"
                    " same command again: it fuses only rows that changed"
                )
            rows.append(made)
        return rows
