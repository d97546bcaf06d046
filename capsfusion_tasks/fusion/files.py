"""One file in, one file out (``capsfusion fuse``): the paper's script, with all rows read, in order, resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from capsfusion_tasks.caption_files import check_format, read_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import CAPTION_COLUMNS
from capsfusion_tasks.fusion.identity import identify
from capsfusion_tasks.fusion.launcher import FuseJob, run, torchrun_argv
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.storage import Storage

OUTPUT_COLUMN = "capsfusion"


@dataclass(frozen=True)
class FuseResult:
    """``failed``: row number (from 0) and reason of each row that has no caption."""

    rows: int
    failed: list[tuple[int, str]]
    device_seconds: float


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

    Finished chunks lie in ``<target>.parts`` until all are there; with ``resume`` a second call takes them over. A row
    that cannot be fused (an empty caption, say) gets null. Raises InputError for files it cannot read or write.
    """
    check_format(target, write=True)
    if target.exists() and not overwrite:
        raise InputError(f"{target} is there already: choose another name, or say --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: there is no folder {target.absolute().parent}")
    rows = read_caption_file(source, CAPTION_COLUMNS)
    names = rows.table.column_names if rows.table is not None else [name for row in rows.rows or () for name in row]
    if OUTPUT_COLUMN in names:
        raise InputError(
            f"{source} has a column {OUTPUT_COLUMN} already, which would be overwritten: rename or drop it"
        )
    fusion = identify(settings)

    parts = target.absolute().with_name(target.name + ".parts")
    if parts.exists() and not resume:
        shutil.rmtree(parts)
    storage = Storage(str(parts))
    storage.write_table("pairs.parquet", rows.captions)
    job = FuseJob.of(settings, staging=str(parts), pairs="pairs.parquet", chunks="chunks", fusion_id=fusion.fusion_id)
    run(torchrun_argv(job, settings.nproc_per_node), on_line=on_line)

    chunks = chunk_files.cut_chunks(rows.captions, job.chunks, fusion.fusion_id, settings.chunk_rows)
    fused = chunk_files.collect(storage, chunks).to_pylist()
    seconds = chunk_files.device_seconds(storage, chunks)
    failed = {row["row"]: row["finish_reason"] for row in fused if row["finish_reason"].startswith("error")}
    captions = [None if row["row"] in failed else row["capsfusion"] for row in fused]
    write_caption_file(target, rows, OUTPUT_COLUMN, captions)
    shutil.rmtree(parts)
    return FuseResult(len(fused), [(row, reason.removeprefix("error: ")) for row, reason in failed.items()], seconds)
