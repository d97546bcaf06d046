"""Chunks: the row ranges of a unit that ranks claim, and their files. A finished chunk is never fused again."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS
from capsfusion_tasks.schemas import FUSED
from capsfusion_tasks.storage import Storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Rows ``start`` up to ``stop`` of a unit's pairs, and the file that they become."""

    start: int
    stop: int
    path: str
    fingerprint: str

    @property
    def rows(self) -> int:
        return self.stop - self.start


def cut_chunks(pairs: pa.Table, folder: str, fusion_id: str, chunk_rows: int) -> list[Chunk]:
    """The chunks of ``pairs`` (columns laion_2b, laion_coco), in row order."""
    starts = range(0, pairs.num_rows, chunk_rows)
    return [make_chunk(pairs.slice(start, chunk_rows), start, folder, fusion_id, chunk_rows) for start in starts]


def make_chunk(pairs: pa.Table, start: int, folder: str, fusion_id: str, chunk_rows: int) -> Chunk:
    """The chunk of ``pairs``, the at most ``chunk_rows`` rows that begin with row number ``start``."""
    stop = start + pairs.num_rows
    fingerprint = {"fusion_id": fusion_id, "input": _input_digest(pairs), "rows": [start, stop]}
    path = f"{folder}/{start // chunk_rows:05d}.parquet"
    return Chunk(start, stop, path, json.dumps(fingerprint, sort_keys=True))


def is_done(storage: Storage, chunk: Chunk) -> bool:
    """Whether the chunk's file is there and was made from this input by this fusion."""
    if not storage.exists(chunk.path):
        return False
    try:
        metadata, rows = storage.footer(chunk.path)
    except pa.ArrowInvalid as error:  # cut short by a disk or a copy: no rename of ours leaves such a file
        log.warning("chunk %s cannot be read (%s): it is fused again", storage.path(chunk.path), error)
        return False
    return metadata.get("fingerprint") == chunk.fingerprint and rows == chunk.rows


@dataclass(frozen=True)
class Figures:
    """What fusing some rows took: tokens, seconds of one device, and how full the engine's batches were meanwhile.

    A chunk's stand in its footer, so that a unit's can be added up however often it was interrupted.
    """

    rows: int = 0
    prompt_tokens: int = 0
    caption_tokens: int = 0
    device_seconds: float = 0.0
    busy: int = 0
    slots: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def as_dict(self) -> dict[str, Any]:
        """As they are kept with a unit; rates are those of one device."""
        seconds = self.device_seconds
        return {
            "rows": self.rows,
            "prompt_tokens": self.prompt_tokens,
            "caption_tokens": self.caption_tokens,
            "gpu_seconds": round(seconds, 3),
            "rows_per_second": round(self.rows / seconds, 3) if seconds else None,
            "tokens_per_second": round(self.caption_tokens / seconds, 3) if seconds else None,
            "occupancy": round(self.busy / self.slots, 3) if self.slots else None,
        }


def publish(storage: Storage, chunk: Chunk, rows: list[dict[str, Any]], figures: Figures) -> None:
    """Write the chunk's file. ``rows`` are rows of schema FUSED, in any order; none of the chunk's may be missing."""
    table = pa.Table.from_pylist(rows, schema=FUSED).sort_by("row")
    if table["row"].to_pylist() != list(range(chunk.start, chunk.stop)):
        raise RuntimeError(
            f"chunk {chunk.path} wants rows {chunk.start} to {chunk.stop - 1} once each, got {len(rows)} rows"
        )
    metadata = {"fingerprint": chunk.fingerprint, "figures": json.dumps(asdict(figures))}
    storage.write_table(chunk.path, table, metadata=metadata)


def publish_known(storage: Storage, chunks: list[Chunk], known: pa.Table) -> None:
    """Write those of ``chunks`` whose captions are all in ``known`` (schema FUSED); it took no device's time."""
    rows = {row["row"]: row for row in known.to_pylist()}
    for chunk in chunks:
        its = [rows[row] for row in range(chunk.start, chunk.stop) if row in rows]
        if len(its) == chunk.rows and not is_done(storage, chunk):
            publish(storage, chunk, its, Figures(rows=chunk.rows))


def collect(storage: Storage, chunks: list[Chunk]) -> pa.Table:
    """The fused rows of all ``chunks``, in row order. Raises if one is missing."""
    _require_done(storage, chunks)
    tables = [storage.read_table(chunk.path).replace_schema_metadata(None) for chunk in chunks]
    return pa.concat_tables(tables) if tables else FUSED.empty_table()


def figures(storage: Storage, chunks: list[Chunk]) -> Figures:
    """The figures of ``chunks``, added up over ranks and tries. Raises if one is missing."""
    _require_done(storage, chunks)
    return sum((Figures(**json.loads(storage.footer(chunk.path)[0]["figures"])) for chunk in chunks), start=Figures())


def _require_done(storage: Storage, chunks: list[Chunk]) -> None:
    missing = [chunk.path for chunk in chunks if not is_done(storage, chunk)]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(chunks)} chunks are not fused, the first is {missing[0]}")


def _input_digest(pairs: pa.Table) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in pairs.select(CAPTION_COLUMNS).to_pylist():
        for name in CAPTION_COLUMNS:
            text = row[name]
            data = b"" if text is None else text.encode()
            digest.update(b"%d %d " % (text is not None, len(data)) + data)
    return digest.hexdigest()
