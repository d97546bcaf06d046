"""Writes the finished rows of a rank (a process that torchrun starts) to chunk files.

A chunk is open until it is full or 30 seconds old. Each write replaces the file of the open chunk with a longer
version.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.engine import Occupancy
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.schemas import fused_schema
from capsfusion_tasks.staging.storage import Storage

# Age in seconds at which a chunk is closed. A greater age makes writes slower, because each write repeats all rows of
# the open chunk. A smaller age creates more files to read.
CHUNK_SECONDS = 30.0


class ChunkWriter:
    """Writes finished rows to chunk files. Never replaces files of another try, because that try may still run."""

    def __init__(self, job: FuseJob, storage: Storage, store: Store, occupancy: Occupancy) -> None:
        self._job, self._storage, self._store, self._occupancy = job, storage, store, occupancy
        self._name: tuple[int, str] | None = None
        # The time of the last write of a chunk, and the engine's occupancy at that time.
        self._last = (time.monotonic(), Occupancy())
        self._schema = fused_schema(with_beams=job.decoding.keep_beams)
        self._rows = self._schema.empty_table()
        self._begin()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add ``rows`` to the open chunk. Writes and closes each chunk that becomes full.

        ``rows`` have the columns of ``fused_schema``.
        """
        while rows:
            room = self._job.chunk_rows - self._rows.num_rows
            self._rows = pa.concat_tables([self._rows, pa.Table.from_pylist(rows[:room], self._schema)])
            rows = rows[room:]
            if self._rows.num_rows == self._job.chunk_rows:
                self.write()
                self._begin()

    def write(self) -> None:
        """Write the open chunk, if it has rows that are not written yet."""
        if self._rows.num_rows > self._written:
            self._write()
        if self._written and self._last[0] > self._since + CHUNK_SECONDS:
            self._begin()

    def _begin(self) -> None:
        self._since, self._counted = self._last
        self._rows, self._written = self._schema.empty_table(), 0
        self._path = ""

    def _write(self) -> None:
        now, occupancy = self._last = time.monotonic(), Occupancy(self._occupancy.busy, self._occupancy.slots)
        self._path = self._path or self._new_path()
        figures = Figures(
            rows=self._rows.num_rows,
            prompt_tokens=pc.sum(self._rows["prompt_tokens"]).as_py(),
            caption_tokens=pc.sum(self._rows["caption_tokens"]).as_py(),
            # The engine works on many rows at once, so the time of one chunk's rows cannot be measured. Each chunk gets
            # the time since the previous chunk. Only the sum over all chunks is exact.
            device_seconds=now - self._since,
            busy=occupancy.busy - self._counted.busy,
            slots=occupancy.slots - self._counted.slots,
        )
        chunk_files.publish(self._storage, self._path, self._rows, self._job.fusion_id, figures)
        self._store.add("written", self._rows.num_rows - self._written)
        self._written = self._rows.num_rows

    def _new_path(self) -> str:
        """Path such as ``chunks/00012-5f0c1a.parquet``: a number that increases over all tries, and the try's name."""
        first, this_try = self._name = self._name or self._agree()
        return f"{self._job.chunks}/{first + self._store.add('chunks', 1) - 1:05d}-{this_try}.parquet"

    def _agree(self) -> tuple[int, str]:
        """The number of this try's first chunk, and the try's name. All ranks use the values stored first."""
        names = (path.rpartition("/")[2] for path in self._storage.files(self._job.chunks))
        numbers = [int(name.partition("-")[0]) for name in names if re.match(r"\d+-", name)]
        first = self._store.compare_set("first chunk", "", str(max(numbers, default=-1) + 1))
        return int(first), self._store.compare_set("this try", "", secrets.token_hex(3)).decode()
