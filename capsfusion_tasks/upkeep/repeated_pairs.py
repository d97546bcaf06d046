"""Finds pairs that are in several units. Needs only limited memory, however many pairs the units have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from capsfusion_tasks.pairing.database import database
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep.listing import READERS
from capsfusion_tasks.upkeep.progress import Doing, counted, unheard

# DuckDB writes the rows of this table to scratch disk if they do not fit in memory. A pair's id is stored as two
# integers, because DuckDB needs twice as many bytes for a blob.
_TABLE = "create temp table ids (unit integer, high ubigint, low ubigint)"
_REPEATED = """
select unit, high, low
from ids semi join (select high, low from ids group by high, low having count(*) > 1) using (high, low)
order by unit, high, low
"""


def repeated_pairs(
    storage: Storage, settings: Settings, unit_ids: Sequence[str], doing: Doing = unheard
) -> list[list[bytes]]:
    """For each unit, the sorted ids of its pairs that occur more than once, counted over all these units.

    Memory is limited, except for the ids to return (normally none) and for the ids of the few units that are read in
    parallel. Raises NotReadyError if the ids fit neither in memory nor on scratch disk.
    """
    with database(settings, "the ids of the pairs of unfinished units") as connection:
        connection.execute(_TABLE)
        read = partial(storage.read_table, columns=["pair_id"])
        tables = read_ahead(read, map(layout.unit_pairs, unit_ids), READERS)
        for number, pairs in enumerate(counted(tables, doing, "comparing pairs of units", len(unit_ids))):
            connection.register("of_unit", _halves(pairs["pair_id"].combine_chunks()))
            connection.execute("insert into ids select ?, high, low from of_unit", [number])
            connection.unregister("of_unit")
        found = connection.sql(_REPEATED).to_arrow_table()
    both = np.stack([found[name].to_numpy() for name in ("high", "low")], axis=1).astype(">u8").tobytes()
    repeated: list[list[bytes]] = [[] for _ in unit_ids]
    for row, number in enumerate(found["unit"].to_pylist()):
        repeated[number].append(both[16 * row : 16 * row + 16])
    return repeated


def _halves(pair_ids: pa.FixedSizeBinaryArray) -> pa.Table:
    """The first and the last eight bytes of each id, as integers that are sorted like the ids."""
    words = np.frombuffer(pair_ids.buffers()[1] or b"", ">u8")[2 * pair_ids.offset :][: 2 * len(pair_ids)]
    return pa.table({"high": words[0::2].astype(np.uint64), "low": words[1::2].astype(np.uint64)})
