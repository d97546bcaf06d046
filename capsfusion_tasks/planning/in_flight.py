"""Finds out which pairs are in unfinished work units (a unit has the pairs that one GPU task fuses)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage

BUCKETS_KEY = "capsfusion.buckets"  # key in the footer of a unit's file: the buckets that its pairs are from

# The ids of a batch of pairs are compared with the ids of units in two steps: first only this many bits at their
# beginning, then whole ids. The four million ids of a batch have about a quarter of all 24-bit beginnings, so the first
# step excludes about three quarters of the unit's ids that are not in the batch.
_BEGIN_BITS = 24


class PairsInFlight:
    """The pairs of unfinished units. Keeps the ids of only a few units in memory at a time."""

    def __init__(self, storage: Storage, unit_ids: Iterable[str]) -> None:
        self._storage = storage
        self._units = sorted(unit_ids)
        self._buckets: dict[str, set[str]] = {}  # unit_id → buckets of its pairs; only units whose footers were read

    def contain(self, pair_ids: pa.FixedSizeBinaryArray, buckets: Set[str]) -> np.ndarray:
        """Whether each of ``pair_ids`` is in an unfinished unit, [rows] bool. ``buckets``: the buckets of these pairs.

        Each call reads all units that have pairs of these buckets, so call it with many ids. Raises NotReadyError if
        the file of a unit is missing.
        """
        # First compare only the first bits of the ids. This step excludes most pairs of the units, so the second step,
        # which compares whole ids, needs a hash table of only a few ids.
        begins = np.zeros(1 << _BEGIN_BITS, bool)
        begins[_beginnings(pair_ids)] = True
        found = [unit_ids.filter(pa.array(begins[_beginnings(unit_ids)])) for unit_ids in self._read(buckets)]
        both = pa.concat_arrays([pa.array([], pa.binary(16)), *found])
        taken: np.ndarray = pc.is_in(pair_ids, value_set=both).to_numpy(zero_copy_only=False)
        return taken

    def _read(self, buckets: Set[str]) -> Iterator[pa.FixedSizeBinaryArray]:
        for ids in read_ahead(partial(self._ids, buckets=buckets), self._units):
            if ids is not None:
                yield ids

    def _ids(self, unit_id: str, buckets: Set[str]) -> pa.FixedSizeBinaryArray | None:
        """The ids of the unit's pairs. None if the unit has no pair of ``buckets``."""
        path = layout.unit_pairs(unit_id)
        try:
            if unit_id not in self._buckets:
                self._buckets[unit_id] = set(self._storage.footer(path)[0][BUCKETS_KEY].split())
            its = self._buckets[unit_id]
            if layout.ANY_BUCKET not in its | buckets and its.isdisjoint(buckets):
                return None
            return self._storage.read_table(path, columns=["pair_id"])["pair_id"].combine_chunks()
        except FileNotFoundError as error:
            raise NotReadyError(
                f"the file with the pairs of the unfinished unit {unit_id} is missing: {self._storage.path(path)}. Try"
                " again. If the file is still missing, run `capsfusion check --repair`"
            ) from error


def _beginnings(pair_ids: pa.FixedSizeBinaryArray) -> np.ndarray:
    """The first ``_BEGIN_BITS`` bits of each id, [rows] uint32."""
    first = pair_ids.offset
    words = np.frombuffer(pair_ids.buffers()[1], np.uint32)[4 * first : 4 * (first + len(pair_ids)) : 4]
    return words >> np.uint32(32 - _BEGIN_BITS)
