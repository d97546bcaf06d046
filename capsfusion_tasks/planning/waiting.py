"""Counts pairs in the staging area that are in no work unit yet. Plans nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.new_pairs import PairsInFlight, estimate_tokens
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage


def intervals(storage: Storage, within: Interval | None = None) -> list[Interval]:
    """All intervals that were listed, or those inside ``within``."""
    return [interval for interval in shard_list.intervals(storage) if within is None or interval.is_within(within)]


def whole_range(storage: Storage, *more: Interval) -> Interval:
    """From the start of the first to the end of the last interval that was listed, or of ``more``."""
    seen = [*more, *intervals(storage)]
    return Interval(start=min(one.start for one in seen), end=max(one.end for one in seen))


def paired_rows(storage: Storage, interval: Interval) -> int:
    """Number of pairs of the interval, planned or not, from the footers of its files."""
    return sum(storage.footer(path)[1] for path in storage.files(layout.pairs_folder(interval)))


def paired_buckets(storage: Storage, interval: Interval) -> int:
    """Number of the interval's buckets that are joined."""
    return len(storage.files(layout.pairs_folder(interval)))


def paired_with_others(storage: Storage, within: Iterable[Interval], rules: PairRules) -> list[Interval]:
    """The intervals whose pairs were made with other rules. The next run of each makes its pairs again."""
    found = []
    for interval in within:
        if files := storage.files(layout.pairs_folder(interval)):
            made_with = PairRules.recorded(storage.footer(files[0])[0])
            if made_with is not None and made_with != rules:
                found.append(interval)
    return found


def count_new_pairs(
    storage: Storage,
    within: Iterable[Interval],
    is_known: Callable[[pa.ChunkedArray], pa.Array],
    in_flight: list[str],
) -> tuple[int, int]:
    """Rows and estimated tokens of the intervals' pairs that are neither in a unit nor in the warehouse.

    ``is_known`` and ``in_flight`` as for ``new_pairs``. A pair that is in several intervals counts once. Holds one
    bucket of all intervals in memory at a time.
    """
    by_bucket: dict[str, list[str]] = defaultdict(list)
    for interval in within:
        for path in storage.files(layout.pairs_folder(interval)):
            by_bucket[path.rpartition("/")[2]].append(path)
    taken = PairsInFlight(storage, in_flight)
    rows = tokens = 0
    for paths in by_bucket.values():
        seen = taken.of(paths[0])
        for path in paths:
            pairs = storage.read_table(path, columns=["pair_id", "laion_2b", "laion_coco"])
            ids = pairs["pair_id"]
            is_new = pc.invert(pc.is_in(ids, value_set=seen))
            new = np.flatnonzero(pc.and_not(is_new, is_known(ids)).to_numpy())
            rows += len(new)
            tokens += int(estimate_tokens(pairs)[new].sum())
            if len(paths) > 1:
                seen = pa.concat_arrays([seen, *ids.chunks])
    return rows, tokens
