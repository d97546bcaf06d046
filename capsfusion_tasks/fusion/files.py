"""``capsfusion fuse``: reads pairs from files, and writes the pairs and their fused captions to other files.

The order of the rows is kept. An interrupted run can be resumed.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from capsfusion_tasks.caption_files import (
    check_target,
    check_writable,
    check_writable_folder,
    open_caption_file,
    write_caption_file,
)
from capsfusion_tasks.caption_files.base import CaptionFile, MissingColumns
from capsfusion_tasks.caption_files.formats import format_of
from capsfusion_tasks.caption_files.inputs import InOut
from capsfusion_tasks.errors import InputError, TorchrunFailed
from capsfusion_tasks.fusion import begun
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.file_captions import FailedRow, FileCaptions, TakeBeam
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob, claim_rows
from capsfusion_tasks.fusion.launcher import Torchrun
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS, PairColumns, write_pieces
from capsfusion_tasks.fusion.parts_folder import empty, parts_folder
from capsfusion_tasks.fusion.torchrun_command import environment_defaults, gpu_count, require_gpu_for, torchrun_argv
from capsfusion_tasks.fusion.watchdog import Timeouts
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import full_disk
from capsfusion_tasks.staging.storage import Storage

OUTPUT_COLUMN = "capsfusion"
_PAIRS, _CHUNKS = "pairs", "chunks"
# The ranks read the pairs in pieces of this many claims. A claim is a range of at most 64 rows that one rank takes. A
# piece has at most 4,096 rows, so that the first piece is written while torchrun is still starting.
_CLAIMS_OF_A_PIECE = 64
_LONG_CHECK_BYTES = 256 << 20  # files with more bytes take seconds to check, so a message announces the check

ExistingOutput = Literal["refuse", "replace", "skip"]


@dataclass(frozen=True)
class FuseResult:
    """The result of ``fuse_files``. ``files``: number of fused files.

    ``rescued`` counts the rows for which ``take_beam`` chose a caption other than the best one of the beam search.
    """

    files: int
    figures: Figures
    failed: list[FailedRow]
    rescued: int


def fuse_file(
    source: Path,
    target: Path,
    settings: Settings,
    *,
    columns: PairColumns = PairColumns(),  # noqa: B008 (frozen)
    resume: bool = True,
    overwrite: bool = False,
    take_beam: TakeBeam | None = None,
    on_line: Callable[[str], None] = print,
) -> FuseResult:
    """Fuse one file with ``fuse_files``."""
    return fuse_files(
        [InOut(source, target)],
        target,
        settings,
        columns=columns,
        resume=resume,
        existing="replace" if overwrite else "refuse",
        take_beam=take_beam,
        on_line=on_line,
    )


def fuse_files(
    files: Sequence[InOut],
    out: Path,
    settings: Settings,
    *,
    columns: PairColumns = PairColumns(),  # noqa: B008 (frozen)
    resume: bool = True,
    existing: ExistingOutput = "refuse",
    take_beam: TakeBeam | None = None,
    on_line: Callable[[str], None] = print,
) -> FuseResult:
    """Write each source's rows to its target, in the same order, with all columns and the new column ``capsfusion``.

    ``out`` is the target of a single file, or the folder of all targets. One torchrun fuses all files, so that the
    model is loaded once. A row that cannot be fused, such as one with an empty caption, gets null.

    ``<out>.parts`` keeps finished rows until all targets are written. With ``resume``, a second call continues after an
    interruption: it fuses only unfinished rows and rows whose captions have changed. ``existing`` sets what happens to
    targets that exist. ``take_beam`` chooses the caption to write, if the settings keep the other captions of the beam
    search. Without ``take_beam``, the best caption is written.

    Targets are checked before the first row is fused. Raises InputError for files that cannot be read or written, for a
    source that changes during the call, and for finished rows that were fused with other settings. Raises NotReadyError
    if another call is writing ``out``.
    """
    if columns.raw == columns.synthetic:
        raise InputError(
            f"column {columns.raw} is named for both the raw and the synthetic caption: name two different columns with"
            " --raw-column and --synthetic-column"
        )
    opened = {each: _open(each.source, columns) for each in files}
    for each in files:
        format_of(each.target, write=True)
    one = [each.target for each in files] == [out]
    # After an interrupted try, check existing targets later, when the record of that try tells which targets it wrote.
    if not begun.is_begun(out):
        _check_new(files, out, existing, one=one)
    require_gpu_for(settings.dtype)
    # The dtype "auto" depends on the device. If the setting ``device`` is "auto", use the device of this machine,
    # because the model runs here.
    here: Literal["cpu", "gpu"] | None = None if settings.device != "auto" else "gpu" if gpu_count() else "cpu"
    decoding = decide(settings, here)

    with parts_folder(out) as parts:
        storage = Storage(str(parts))
        if not resume or not storage.files(_CHUNKS):  # start over, and discard what an earlier try has left
            empty(parts)
        kept: list[InOut] = []
        written: set[InOut] = set()
        new = list(files)
        if earlier := begun.read(parts):
            begun.require_same_decoding(earlier, decoding, parts)
            kept, new = begun.in_order(earlier, new, out)
            written = begun.written(earlier, kept, out)
            _check_writable(kept, out, overwrite=True, one=one)
        if existing == "skip":
            new, found = [each for each in new if not each.target.exists()], len(new)
            if found > len(new):
                on_line(f"{out}: {found - len(new)} of {len(files)} outputs exist already and are skipped")
        else:
            _check_new([each for each in (*kept, *new) if each not in written], out, existing, one=one)
        todo = [*kept, *new]
        sources = [opened[each] for each in todo]
        if not todo:
            return FuseResult(0, Figures(), [], rescued=0)
        rows = _check_targets(todo, sources, on_line)
        shutil.rmtree(parts / _PAIRS, ignore_errors=True)  # discard old pairs, because the files may have changed
        begun.write(parts, decoding, out, todo, written)
        job = FuseJob.of(
            settings,
            decoding,
            staging=str(parts),
            pairs=_PAIRS,
            piece_rows=_CLAIMS_OF_A_PIECE * claim_rows(settings),
            chunks=_CHUNKS,
        )
        if rows:
            argv, timeouts = torchrun_argv(job, settings.nproc_per_node), Timeouts.of(settings)
            torchrun = Torchrun(argv, on_line=on_line, timeouts=timeouts, defaults=environment_defaults(settings))
            _fuse_while_reading(job, sources, columns, storage, torchrun)
        else:
            on_line("the input has no rows: nothing is fused")

        # Check again, because another program may have written targets meanwhile.
        _check_new([each for each in todo if each not in written], out, existing, one=one)
        begun.write(parts, decoding, out, todo, todo)
        captions = FileCaptions(job, columns, storage, take_beam if decoding.keep_beams else None)
        for each in todo:
            each.target.absolute().parent.mkdir(parents=True, exist_ok=True)
            with full_disk.explained(each.target.absolute().parent, each.target.name):
                write_caption_file(each.target, opened[each], captions.of(opened[each]))
        empty(parts)
    return FuseResult(len(todo), captions.figures, captions.failed, captions.rescued)


def _open(source: Path, columns: PairColumns) -> CaptionFile:
    try:
        return open_caption_file(source, [columns.raw, columns.synthetic], adds=OUTPUT_COLUMN, key=columns.row_id)
    except MissingColumns as error:
        advice = []
        if {columns.raw, columns.synthetic} & set(error.missing):
            advice.append("name the captions' columns with --raw-column and --synthetic-column")
        if columns.row_id in error.missing:
            advice.append("name the column of ids with --id-column, or leave this option out")
        raise InputError(f"{error}: {'; '.join(advice)}") from error


def _check_writable(files: Sequence[InOut], out: Path, *, overwrite: bool, one: bool) -> None:
    """Raise InputError if a target cannot be written. ``one``: ``out`` is the only target, not the folder of targets.

    ``files`` does not tell whether there is only one target, because it may have only some of the run's files.
    """
    for each in files:
        if one or each.target.parent.is_dir():
            check_writable(each.target, overwrite=overwrite, but=each.source)
    if not one:
        check_writable_folder(out)


def _check_new(files: Sequence[InOut], out: Path, existing: ExistingOutput, *, one: bool) -> None:
    """Raise InputError if a target cannot be written, or if it exists and must not be replaced."""
    _check_writable(files, out, overwrite=existing != "refuse" or not one, one=one)
    found = [each.target for each in files if each.target.exists()]
    if found and existing == "refuse":
        raise InputError(
            f"{out} has {found[0].relative_to(out)}{f' and {len(found) - 1} more outputs' * (len(found) > 1)} already:"
            " replace them with --overwrite, skip them with --skip-existing, or choose another folder"
        )


def _check_targets(files: Sequence[InOut], sources: Sequence[CaptionFile], on_line: Callable[[str], None]) -> int:
    """Raise InputError if a target cannot store its source's rows. Returns the number of rows of all sources."""
    if sum(each.source.stat().st_size for each in files) > _LONG_CHECK_BYTES:
        which = files[0].source.name if len(files) == 1 else f"{len(files)} files"
        on_line(f"{which}: checking that the output can hold all rows")
    return sum(check_target(each.target, source) for each, source in zip(files, sources, strict=True))


def _fuse_while_reading(
    job: FuseJob, sources: Sequence[CaptionFile], columns: PairColumns, storage: Storage, torchrun: Torchrun
) -> None:
    """Write the pairs of all files piece by piece while torchrun runs. The ranks start after the first piece."""
    stopped = threading.Event()

    def pieces() -> Iterator[pa.Table]:
        for piece in _pieces(sources, columns, job.piece_rows or 1):
            if stopped.is_set():
                raise TorchrunFailed("torchrun ended before all pairs were written")
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
                reading.result()  # raises the error of reading, if any: this error is why torchrun was terminated
            raise
        finally:
            stopped.set()
            torchrun.terminate()


def _pieces(sources: Sequence[CaptionFile], columns: PairColumns, rows: int) -> Iterator[pa.Table]:
    """The pairs of all files, one file after the other, in tables of ``rows`` rows. The last table may be shorter."""
    held = pa.schema([(name, pa.string()) for name in CAPTION_COLUMNS]).empty_table()
    for source in sources:
        with source.unchanged():
            for table in source.captions(rows):
                held = pa.concat_tables([held, columns.pairs(table)])
                while held.num_rows >= rows:
                    yield held.slice(0, rows)
                    held = held.slice(rows)
    if held.num_rows:
        yield held
