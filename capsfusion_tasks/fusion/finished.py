"""Reads the finished rows of a range of row numbers, to skip these rows in a retry or to write the output file."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.schemas import FUSED, FUSED_WITH_BEAMS
from capsfusion_tasks.staging.storage import Storage

# Number of rows to read in advance. A call that reads files also reads the files of this many rows after the requested
# range: on S3, reading many files in parallel takes a tenth of the time of reading them one by one.
_AHEAD = 32_768


class FinishedRows:
    """Finished rows with one fusion_id (id of decoding settings), read from chunks.

    Only chunks with rows near the requested range are in memory. Request the ranges in row order, because chunks before
    the requested range are dropped.
    """

    def __init__(self, storage: Storage, folder: str, fusion_id: str, columns: list[str] = FUSED.names) -> None:
        self._storage, self._columns = storage, columns
        self._loaded: dict[str, pa.Table] = {}
        self._spans: dict[str, tuple[int, int]] = {}  # first and last row of each file, oldest file first
        self.figures = Figures()  # the figures of all chunks added up
        for chunk in chunk_files.read_all(storage, folder, fusion_id, ["row"]):
            self.figures += chunk.figures
            if chunk.rows.num_rows:
                ends = pc.min_max(chunk.rows["row"])
                self._spans[chunk.path] = (ends["min"].as_py(), ends["max"].as_py())

    def between(self, start: int, stop: int) -> pa.Table:
        """The finished rows from ``start`` to before ``stop``, chunk by chunk, oldest first. A row can occur twice."""
        needed = self._files(start, stop)
        self._loaded = {path: table for path, table in self._loaded.items() if self._spans[path][1] >= start}
        if any(path not in self._loaded for path in needed):
            new = [path for path in self._files(start, stop + _AHEAD) if path not in self._loaded]
            for found in chunk_files.read_each(self._storage, new, self._columns):
                if isinstance(found, chunk_files.Chunk):
                    self._loaded[found.path] = found.rows
        empty = pa.schema([FUSED_WITH_BEAMS.field(name) for name in self._columns]).empty_table()
        table = pa.concat_tables([empty, *(self._loaded[path] for path in needed if path in self._loaded)])
        return table.filter((pc.field("row") >= start) & (pc.field("row") < stop))

    def _files(self, start: int, stop: int) -> list[str]:
        return [path for path, (first, last) in self._spans.items() if first < stop and last >= start]
