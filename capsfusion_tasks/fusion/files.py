"""One file in, one file out (``capsfusion fuse``): the paper's script, with all rows read, in order, resumable."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from capsfusion_tasks.caption_files import (
    check_format,
    check_target,
    open_caption_file,
    write_caption_file,
)
from capsfusion_tasks.caption_files.base import CaptionFile
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
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS, write_pieces
from capsfusion_tasks.fusion.stall import Patience
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import full_disk
from capsfusion_tasks.staging.storage import Storage

OUTPUT_COLUMN = "capsfusion"
_PAIRS, _CHUNKS = "pairs", "chunks"
_CLAIMS_OF_A_PIECE = 64  # a piece of 4,096 rows is read and written in less time than torchrun needs to start


@dataclass(frozen=True)
class FuseResult:
    """``failed``: row number (from 0) and reason of each row that has no caption."""

    figures: Figures
    failed: list[tuple[int, str]]


def fuse_file(
    source: Path,
    target: Path,
    settings: Settings,
    *,
    resume: bool = True,
    overwrite: bool = False,
    on_line: Callable[[str], None] = print,
) -> FuseResult:
    """Write ``source``'s rows to ``target``, same order, every column kept, with a column ``capsfusion``.

    Finished rows lie in ``<target>.parts`` until all are there; with ``resume`` a second call takes over those that are
    in the file as they were. A row that cannot be fused (an empty caption, say) gets null. Raises InputError for files
    it cannot read or write.
    """
    check_format(target, write=True)
    if target.exists() and not overwrite:
        raise InputError(f"{target} is there already: choose another name, or say --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {target.absolute().parent}")
    rows = open_caption_file(source, CAPTION_COLUMNS, adds=OUTPUT_COLUMN)
    # Planned and fused on the same machine: what it has decides, where no setting does.
    here: Literal["cpu", "gpu"] | None = None if settings.device != "auto" else "gpu" if gpu_count() else "cpu"
    decoding = decide(settings, here)
    check_target(target, rows)

    parts = target.absolute().with_name(target.name + ".parts")
    if parts.exists() and not resume:
        shutil.rmtree(parts)
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
    argv, patience = torchrun_argv(job, settings.nproc_per_node), Patience.of(settings)
    torchrun = Torchrun(argv, on_line=on_line, patience=patience, defaults=environment_defaults(settings))
    _fuse_while_reading(job, rows, storage, torchrun)

    fused = _Fused(job, rows, storage)
    with full_disk.explained(target.absolute().parent, target.name):
        write_caption_file(target, rows, fused.captions())
    shutil.rmtree(parts)
    return FuseResult(fused.figures, fused.failed)


def _fuse_while_reading(job: FuseJob, rows: CaptionFile, storage: Storage, torchrun: Torchrun) -> None:
    """Run torchrun, and meanwhile give it the file's pairs, piece by piece: the first caption waits for one piece."""
    stopped = threading.Event()

    def pieces() -> Iterator[pa.Table]:
        for piece in rows.captions(job.piece_rows or 1):
            if stopped.is_set():
                raise TorchrunFailed("torchrun ended before it had all pairs")
            yield piece

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
    """The captions of a file that is fused, read a piece at a time, and what adds up on the way."""

    def __init__(self, job: FuseJob, source: CaptionFile, storage: Storage) -> None:
        self._job, self._source = job, source
        self._finished = FinishedRows(storage, job.chunks, job.fusion_id)
        self.figures = replace(self._finished.figures, rows=0, prompt_tokens=0, caption_tokens=0)
        self.failed: list[tuple[int, str]] = []

    def captions(self) -> Iterator[str | None]:
        """Each row's, in order. Raises InputError where a row is not fused as the file has it now."""
        for pairs in self._source.captions(self._job.piece_rows or 1):
            start, fused = self.figures.rows, self._fused(pairs)
            tokens = (sum(made[name] for made in fused) for name in ("prompt_tokens", "caption_tokens"))
            self.figures += Figures(len(fused), *tokens)
            for row, made in enumerate(fused, start=start):
                failed = made["finish_reason"].startswith("error")
                if failed:
                    self.failed.append((row, made["finish_reason"].removeprefix("error: ")))
                yield None if failed else made["capsfusion"]

    def _fused(self, pairs: pa.Table) -> list[dict[str, Any]]:
        start = self.figures.rows
        finished: dict[tuple[int, bytes], dict[str, Any]] = {}
        for made in self._finished.between(start, start + pairs.num_rows).to_pylist():
            finished.setdefault((made["row"], made["input"]), made)
        rows = []
        for row, pair in enumerate(pairs.to_pylist(), start=start):
            made = finished.get((row, input_digest(*(pair[name] for name in CAPTION_COLUMNS))))
            if made is None:
                raise InputError(
                    f"{self._source.source} changed while it was fused: row {row + 1} has other captions now. Run the"
                    " same command again: it fuses only rows that changed"
                )
            rows.append(made)
        return rows
