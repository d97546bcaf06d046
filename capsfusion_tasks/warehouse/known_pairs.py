"""Looks up which pairs are in the warehouse, in transactions of about half a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast
from uuid import UUID

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, text

Transactions = Callable[[], AbstractContextManager[Connection]]  # each call begins its own transaction

# Transactions are short, because vacuum cannot remove old rows of any table during a long transaction.
# The number of rows in a transaction is calculated from the speed of the previous transaction, because the speed
# depends on the server's disks and cache.
_TRANSACTION_SECONDS = 0.5
_FIRST_ROWS, _MOST_ROWS = 20_000, 200_000

# PostgreSQL's binary COPY format, to send pair_ids: a header, rows, and an end mark. A row has the number of fields,
# then the length and the value of its only field.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_ROW = np.dtype([("fields", ">i2"), ("length", ">i4"), ("pair_id", "V16")])
_END = b"\xff\xff"

# The condition ``between`` states the range of the ids, so that PostgreSQL reads only this part of each index.
_KNOWN = " union all ".join(
    f"select uuid_send(pair_id) from candidates join capsfusion.{table} using (pair_id)"  # noqa: S608
    " where fusion_id = %(fusion_id)s and pair_id between %(first)s and %(last)s"
    for table in ("fused_captions", "rejected_captions", "replayed_captions")
)
_OF_UNITS = _KNOWN.replace("where fusion_id", "where unit_id = any(%(unit_ids)s) and fusion_id")


def known_pairs(
    begin: Transactions,
    fusion_id: str,
    pair_ids: pa.Array | pa.ChunkedArray,
    *,
    unit_ids: Sequence[str] | None = None,
) -> pa.BooleanArray:
    """For each of ``pair_ids`` (binary(16)): whether the pair was loaded under ``fusion_id``, accepted or rejected.

    ``unit_ids``: look only among the captions of these units.
    """
    if unit_ids is not None and not unit_ids:
        return pa.array([False] * len(pair_ids), pa.bool_())
    if isinstance(pair_ids, pa.ChunkedArray):
        pair_ids = pair_ids.combine_chunks()
    # Sort the ids in the order of the tables' keys. Each transaction then reads one part of the indexes, and each page
    # only once.
    ids = _ids(pair_ids)
    ids = ids[np.argsort(ids.view(">u8")[::2], kind="stable")]
    found: list[bytes] = []
    start, rows = 0, _FIRST_ROWS
    while start < len(ids):
        began = time.monotonic()
        with begin() as connection:
            found += _look_up(connection, fusion_id, ids[start : start + rows], unit_ids)
        start += rows
        rate = rows / max(time.monotonic() - began, 1e-3)
        rows = max(1, min(int(rate * _TRANSACTION_SECONDS), 4 * rows, _MOST_ROWS))
    return pc.is_in(pair_ids, value_set=pa.array(found, pa.binary(16)))


def _look_up(connection: Connection, fusion_id: str, ids: np.ndarray, unit_ids: Sequence[str] | None) -> list[bytes]:
    """The ``ids`` that are in the warehouse, possibly with duplicates. ``ids`` are sorted by their first 8 bytes."""
    # The temporary table exists already if this function was called earlier in the same transaction.
    connection.execute(text("create temp table if not exists candidates (pair_id uuid) on commit drop"))
    connection.execute(text("truncate candidates"))
    driver = cast(psycopg.Connection[Any], connection.connection.driver_connection)
    with driver.cursor(binary=True) as cursor:
        with cursor.copy("copy candidates from stdin (format binary)") as copy:
            copy.write(_as_copy(ids))
        cursor.execute("analyze candidates")
        first, last = UUID(bytes=ids[0].tobytes()[:8] + bytes(8)), UUID(bytes=ids[-1].tobytes()[:8] + b"\xff" * 8)
        values = {"fusion_id": fusion_id, "first": first, "last": last}
        if unit_ids is None:
            cursor.execute(_KNOWN, values)
        else:
            cursor.execute(_OF_UNITS, {**values, "unit_ids": list(unit_ids)})
        return [pair_id for (pair_id,) in cursor]


def _ids(pair_ids: pa.FixedSizeBinaryArray) -> np.ndarray:
    return np.frombuffer(pair_ids.buffers()[1], "V16")[pair_ids.offset : pair_ids.offset + len(pair_ids)]


def _as_copy(ids: np.ndarray) -> bytes:
    rows = np.empty(len(ids), _ROW)
    rows["fields"], rows["length"], rows["pair_id"] = 1, 16, ids
    return _HEADER + rows.tobytes() + _END
