"""Chunks are files of finished rows, in any order. A retry skips these rows. Later stages read the chunks."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS
from capsfusion_tasks.schemas import FUSED, FUSED_WITH_BEAMS, fused_schema, has_beams
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage

log = logging.getLogger(__name__)

_READERS = 16  # number of files to read in parallel; many, because each file takes a few round trips to S3
_KNOWN = "00000-known.parquet"


@dataclass(frozen=True)
class Chunk:
    """The content of a chunk file: the requested columns of its rows, and its figures.

    ``fusion_id``: digest of the decoding settings that made the rows.
    """

    path: str
    rows: pa.Table
    fusion_id: str
    figures: Figures


class BrokenChunk(Exception):
    """A chunk file that was damaged by a disk or by copying. Our own writes never leave incomplete files."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


def input_digest(raw: str | None, synthetic: str | None) -> bytes:
    """Digest of a row's two captions. Distinguishes null from "", and ("ab", "c") from ("a", "bc")."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (raw, synthetic):
        data = b"" if text is None else text.encode()
        digest.update(b"%d %d " % (text is not None, len(data)) + data)
    return digest.digest()


def publish(storage: Storage, path: str, rows: pa.Table, fusion_id: str, figures: Figures) -> None:
    """Write a chunk file, or replace it with a longer version. The schema of ``rows`` is ``fused_schema``."""
    storage.write_table(path, rows, metadata={"fusion_id": fusion_id, "figures": json.dumps(asdict(figures))})


def publish_known(storage: Storage, folder: str, fusion_id: str, pairs: pa.Table, known: pa.Table) -> None:
    """Write a chunk of captions that already exist, so that no rank fuses their rows.

    ``known`` has the columns of ``fused_schema`` except ``input``. ``known["row"]`` contains row numbers of ``pairs``.
    The chunk's device time is 0. Leaves out rows that other chunks have, so that the newer captions in those chunks
    are used.
    """
    path = f"{folder}/{_KNOWN}"
    others = [chunk.rows["row"] for chunk in read_all(storage, folder, fusion_id, ["row"]) if chunk.path != path]
    fused = pa.chunked_array(others, pa.int64()).combine_chunks()
    known = known.filter(pc.invert(pc.is_in(known["row"], value_set=fused)))
    if not known.num_rows:
        return
    sources = pairs.select(CAPTION_COLUMNS).take(known["row"]).to_pylist()
    inputs = [input_digest(*(source[name] for name in CAPTION_COLUMNS)) for source in sources]
    schema = fused_schema(with_beams=has_beams(known))
    rows = known.append_column("input", pa.array(inputs, pa.binary(16))).select(schema.names).cast(schema)
    publish(storage, path, rows, fusion_id, Figures(rows=rows.num_rows))


def read_each(storage: Storage, paths: Iterable[str], columns: list[str]) -> Iterator[Chunk | BrokenChunk]:
    """Read the chunks at ``paths`` in parallel, and yield them in the order of ``paths``. Skips deleted files."""
    for found in read_ahead(lambda path: read(storage, path, columns), paths, _READERS):
        if found is not None:
            yield found


def read_all(storage: Storage, folder: str, fusion_id: str, columns: list[str]) -> Iterator[Chunk]:
    """The chunks of ``fusion_id`` in ``folder``, oldest first. Logs and skips broken files."""
    for found in read_each(storage, storage.files(folder), columns):
        if isinstance(found, BrokenChunk):
            log.warning("chunk %s cannot be read (%s): its rows are fused again", storage.path(found.path), found.why)
        elif found.fusion_id == fusion_id:
            yield found


def read(storage: Storage, path: str, columns: list[str]) -> Chunk | BrokenChunk | None:
    """Read the chunk at ``path``. None if it does not exist."""
    try:
        table = storage.read_table(path, columns)
        footer = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        fusion_id, figures = footer["fusion_id"], Figures(**json.loads(footer["figures"]))
    except FileNotFoundError:  # the chunk was deleted after the folder was listed
        return None
    except OSError as error:
        if error.errno is not None:  # an error of the operating system; the file may be intact
            raise
        return BrokenChunk(path, _short(error))
    except (pa.ArrowException, ValueError, TypeError) as error:
        return BrokenChunk(path, _short(error))
    except KeyError as error:
        return BrokenChunk(path, f"its footer has no {error.args[0]}")
    return Chunk(path, table.replace_schema_metadata(None), fusion_id, figures)


def collect(storage: Storage, folder: str, fusion_id: str, rows: int, columns: list[str] = FUSED.names) -> pa.Table:
    """The finished rows with numbers below ``rows``, each row once, in row order. ``columns`` must include ``row``.

    Does not compare the digests of the rows' captions, so use it only for pairs that cannot change, such as the pairs
    of a unit (the work of one fuse task).
    """
    return _merge(read_all(storage, folder, fusion_id, columns), rows, columns)


def figures(storage: Storage, folder: str, fusion_id: str, rows: int) -> tuple[pa.Table, Figures]:
    """Row numbers and token counts of the finished rows with numbers below ``rows``, and the sum of the figures.

    The sum is over the chunks of all ranks and tries.
    """
    columns = ["row", "prompt_tokens", "caption_tokens"]
    chunks = list(read_all(storage, folder, fusion_id, columns))
    table = _merge(chunks, rows, columns)
    tokens = {name: pc.sum(table[name]).as_py() or 0 for name in columns[1:]}
    return table, replace(sum((chunk.figures for chunk in chunks), start=Figures()), rows=table.num_rows, **tokens)


def _merge(chunks: Iterable[Chunk], rows: int, columns: list[str]) -> pa.Table:
    """The rows of ``chunks`` with numbers below ``rows``, each row once, from the first chunk that has it."""
    schema = pa.schema([FUSED_WITH_BEAMS.field(name) for name in columns])
    table = pa.concat_tables([schema.empty_table(), *(chunk.rows for chunk in chunks)])
    numbers = table["row"].to_numpy()
    _, first = np.unique(numbers, return_index=True)
    return table.take(first[numbers[first] < rows])


def what_is_missing(fused: pa.Table, rows: int) -> str | None:
    """A sentence that lists which of the first ``rows`` rows ``fused`` lacks. None if ``fused`` is complete.

    The sentence counts rows from 1, as all messages do. The column ``row`` counts from 0.
    """
    if fused.num_rows == rows:
        return None
    missing = np.setdiff1d(np.arange(rows), fused["row"].to_numpy())
    few = ", ".join(str(row + 1) for row in missing[:10].tolist())
    return f"{len(missing)} of its {rows} rows are not fused: {few}{', …' if len(missing) > 10 else ''}"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
