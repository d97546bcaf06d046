"""The pairs of a job, as ranks read them: one Parquet file, or a folder of pieces that somebody is still filling."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pyarrow as pa

from capsfusion_tasks.staging.storage import Storage

CAPTION_COLUMNS = ["laion_2b", "laion_coco"]
_END = "END.json"
_POLL_SECONDS = 0.2


def write_pieces(storage: Storage, folder: str, tables: Iterable[pa.Table]) -> int:
    """Write ``tables`` (columns laion_2b, laion_coco) as pieces 00000.parquet, 00001.parquet, …, each readable at once.

    All but the last must have the same number of rows, which readers are told. Returns the number of rows.
    """
    rows = 0
    for number, table in enumerate(tables):
        storage.write_table(f"{folder}/{number:05d}.parquet", table)
        rows += table.num_rows
    storage.write_json(f"{folder}/{_END}", {"rows": rows})
    return rows


class PairsInput:
    """Random access to a job's pairs by row number, waiting for pieces that are not written yet.

    ``path`` is a Parquet file, or with ``piece_rows`` a folder of pieces of so many rows. Holds one piece in memory.
    """

    def __init__(self, storage: Storage, path: str, piece_rows: int | None) -> None:
        self._storage, self._path, self._piece_rows = storage, path, piece_rows
        self._number: int | None = None
        self._piece = pa.table({})
        self._total: int | None = None

    def read(self, start: int, rows: int) -> pa.Table:
        """Rows ``start`` up to ``start + rows`` (which lie in one piece): fewer at the end, none behind it."""
        number = start // self._piece_rows if self._piece_rows else 0
        if number != self._number:
            if not self._wait_for(number, start):
                return self._piece.slice(0, 0)
            path = f"{self._path}/{number:05d}.parquet" if self._piece_rows else self._path
            self._piece = self._storage.read_table(path, columns=CAPTION_COLUMNS)
            self._number = number
        return self._piece.slice(start - number * (self._piece_rows or 0), rows)

    def total(self) -> int | None:
        """The number of rows, once it is known."""
        if self._total is None:
            if not self._piece_rows:
                self._total = self._storage.footer(self._path)[1]
            elif self._storage.exists(f"{self._path}/{_END}"):
                self._total = self._storage.read_json(f"{self._path}/{_END}")["rows"]
        return self._total

    def _wait_for(self, number: int, start: int) -> bool:
        """Whether there is a piece with row ``start``; it may take its time."""
        while self._piece_rows:
            # The end first: a piece that is written between the two questions would be missed the other way round.
            total = self.total()
            if total is not None:
                return start < total
            if self._storage.exists(f"{self._path}/{number:05d}.parquet"):
                return True
            time.sleep(_POLL_SECONDS)
        return True
