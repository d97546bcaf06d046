"""One file in, one file out (``capsfusion fuse``): the paper's script, with all rows read, in order, resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from capsfusion_tasks.caption_files import check_format, check_target, open_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import CAPTION_COLUMNS
from capsfusion_tasks.fusion.identity import identify
from capsfusion_tasks.fusion.launcher import FuseJob, run, torchrun_argv
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.storage import Storage

OUTPUT_COLUMN = "capsfusion"
PAIRS_AT_ONCE = 16_384


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
    rows = open_caption_file(source, CAPTION_COLUMNS, adds=OUTPUT_COLUMN)
    fusion = identify(settings)
    check_target(target, rows)

    parts = target.absolute().with_name(target.name + ".parts")
    if parts.exists() and not resume:
        shutil.rmtree(parts)
    storage = Storage(str(parts))
    schema = pa.schema([(name, pa.string()) for name in CAPTION_COLUMNS])
    storage.write_tables("pairs.parquet", schema, rows.captions(PAIRS_AT_ONCE))
    job = FuseJob.of(settings, staging=str(parts), pairs="pairs.parquet", chunks="chunks", fusion_id=fusion.fusion_id)
    run(torchrun_argv(job, settings.nproc_per_node), on_line=on_line)

    pairs = storage.read_table("pairs.parquet")
    chunks = chunk_files.cut_chunks(pairs, job.chunks, fusion.fusion_id, settings.chunk_rows)
    fused = chunk_files.collect(storage, chunks).to_pylist()
    seconds = chunk_files.device_seconds(storage, chunks)
    failed = {row["row"]: row["finish_reason"] for row in fused if row["finish_reason"].startswith("error")}
    captions = (None if row["row"] in failed else row["capsfusion"] for row in fused)
    write_caption_file(target, rows, captions)
    shutil.rmtree(parts)
    return FuseResult(len(fused), [(row, reason.removeprefix("error: ")) for row, reason in failed.items()], seconds)
