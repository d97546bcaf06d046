"""Passes a job's caption pairs to the ranks: in one Parquet file, or in a folder of Parquet files, called pieces.

Ranks can read the first pieces while later pieces are still being written.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from capsfusion_tasks.staging.storage import Storage

CAPTION_COLUMNS = ["laion_2b", "laion_coco"]
_END = "END.json"
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class PairColumns:
    """The names of three columns in a user's file: the raw caption, the synthetic caption and the row's id."""

    raw: str = "laion_2b"
    synthetic: str = "laion_coco"
    row_id: str | None = None

    def pairs(self, table: pa.Table) -> pa.Table:
        """The captions of ``table``, in columns with the names ``CAPTION_COLUMNS``."""
        return pa.table([table[self.raw], table[self.synthetic]], CAPTION_COLUMNS)

    def in_words_of_the_file(self, reason: str) -> str:
        """Put the user's column name into the reason why a row was not fused, such as "laion_2b is empty"."""
        for ours, theirs in zip(CAPTION_COLUMNS, (self.raw, self.synthetic), strict=True):
            if reason.startswith(f"{ours} "):
                return theirs + reason.removeprefix(ours)
        return reason


def write_pieces(storage: Storage, folder: str, tables: Iterable[pa.Table]) -> int:
    """Write each of ``tables`` as a piece (a file): 00000.parquet, 00001.parquet and so on. Returns the number of rows.

    A piece can be read as soon as it is written. All pieces except the last must have ``FuseJob.piece_rows`` rows.
    """
    rows = 0
    for number, table in enumerate(tables):
        storage.write_table(f"{folder}/{number:05d}.parquet", table)
        rows += table.num_rows
    storage.write_json(f"{folder}/{_END}", {"rows": rows})
    return rows


class PairsInput:
    """Reads a job's pairs by row number, and waits for pieces that are not written yet.

    Without ``piece_rows``, ``path`` is a Parquet file. With ``piece_rows``, ``path`` is a folder of pieces, which have
    ``piece_rows`` rows each; the last piece may have fewer. The piece that was read last stays in memory.
    """

    def __init__(self, storage: Storage, path: str, piece_rows: int | None) -> None:
        self._storage, self._path, self._piece_rows = storage, path, piece_rows
        self._number: int | None = None
        self._piece = pa.table({})
        self._total: int | None = None

    def read(self, start: int, rows: int) -> pa.Table:
        """Rows ``start`` to ``start + rows - 1``, which must be in one piece.

        Returns fewer rows, or none, if the job has no more pairs.
        """
        number = start // self._piece_rows if self._piece_rows else 0
        if number != self._number:
            if not self._wait_for(number, start):
                return self._piece.slice(0, 0)
            path = f"{self._path}/{number:05d}.parquet" if self._piece_rows else self._path
            self._piece = self._storage.read_table(path, columns=CAPTION_COLUMNS)
            self._number = number
        return self._piece.slice(start - number * (self._piece_rows or 0), rows)

    def total(self) -> int | None:
        """The number of the job's pairs. None while pieces are still being written."""
        if self._total is None:
            if not self._piece_rows:
                self._total = self._storage.footer(self._path)[1]
            elif self._storage.exists(f"{self._path}/{_END}"):
                self._total = self._storage.read_json(f"{self._path}/{_END}")["rows"]
        return self._total

    def _wait_for(self, number: int, start: int) -> bool:
        """Wait for piece ``number``, which has row ``start``. Returns False if the rows end before ``start``."""
        while self._piece_rows:
            total = self.total()
            if total is not None:
                return start < total
            if self._storage.exists(f"{self._path}/{number:05d}.parquet"):
                return True
            time.sleep(_POLL_SECONDS)
        return True
