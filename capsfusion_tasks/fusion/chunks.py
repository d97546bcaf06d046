"""Chunks: the row ranges of a unit that ranks claim, and their files. A finished chunk is never fused again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from capsfusion_tasks.schemas import FUSED
from capsfusion_tasks.storage import Storage

CAPTION_COLUMNS = ["laion_2b", "laion_coco"]


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
    chunks = []
    for number, start in enumerate(range(0, pairs.num_rows, chunk_rows)):
        part = pairs.select(CAPTION_COLUMNS).slice(start, chunk_rows)
        fingerprint = {"fusion_id": fusion_id, "input": _input_digest(part), "rows": [start, start + part.num_rows]}
        chunks.append(
            Chunk(
                start, start + part.num_rows, f"{folder}/{number:05d}.parquet", json.dumps(fingerprint, sort_keys=True)
            )
        )
    return chunks


def is_done(storage: Storage, chunk: Chunk) -> bool:
    """Whether the chunk's file is there and was made from this input by this fusion."""
    if not storage.exists(chunk.path):
        return False
    metadata, rows = storage.footer(chunk.path)
    return metadata.get("fingerprint") == chunk.fingerprint and rows == chunk.rows


def publish(storage: Storage, chunk: Chunk, rows: list[dict[str, Any]], *, device_seconds: float) -> None:
    """Write the chunk's file: ``rows`` are rows of schema FUSED, in any order; all of the chunk's rows must be there.

    ``device_seconds`` is how long one device worked on them. It stands in the footer, so that a unit's figures can be
    added up from its chunks however often it was interrupted.
    """
    table = pa.Table.from_pylist(rows, schema=FUSED).sort_by("row")
    if table["row"].to_pylist() != list(range(chunk.start, chunk.stop)):
        raise RuntimeError(
            f"chunk {chunk.path} wants rows {chunk.start} to {chunk.stop - 1} once each, got {len(rows)} rows"
        )
    metadata = {"fingerprint": chunk.fingerprint, "device_seconds": f"{device_seconds:.3f}"}
    storage.write_table(chunk.path, table, metadata=metadata)


def collect(storage: Storage, chunks: list[Chunk]) -> pa.Table:
    """The fused rows of all ``chunks``, in row order. Raises if one is missing."""
    missing = [chunk.path for chunk in chunks if not is_done(storage, chunk)]
    if missing:
        raise RuntimeError(f"{len(missing)} of {len(chunks)} chunks are not fused, the first is {missing[0]}")
    tables = [storage.read_table(chunk.path).replace_schema_metadata(None) for chunk in chunks]
    return pa.concat_tables(tables) if tables else FUSED.empty_table()


def device_seconds(storage: Storage, chunks: list[Chunk]) -> float:
    """Seconds that devices worked on ``chunks``, added up over ranks and tries."""
    return sum(float(storage.footer(chunk.path)[0]["device_seconds"]) for chunk in chunks)


def _input_digest(part: pa.Table) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in part.to_pylist():
        for name in CAPTION_COLUMNS:
            text = row[name]
            data = b"" if text is None else text.encode()
            digest.update(b"%d %d " % (text is not None, len(data)) + data)
    return digest.hexdigest()
