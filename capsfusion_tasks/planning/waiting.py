"""Finds out from the staging area which intervals have a list of shards, and which have pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage


def intervals(storage: Storage, within: Interval | None = None) -> list[Interval]:
    """All intervals that have a list of shards, or only the intervals inside ``within``."""
    return [interval for interval in shard_list.intervals(storage) if within is None or interval.is_within(within)]


def whole_range(storage: Storage, *more: Interval) -> Interval:
    """The range from the start of the first interval to the end of the last. Includes the intervals ``more``."""
    seen = [*more, *intervals(storage)]
    return Interval(start=min(one.start for one in seen), end=max(one.end for one in seen))


def paired_rows(storage: Storage, interval: Interval, known: Mapping[str, int] | None = None) -> int:
    """Number of pairs of the interval, planned or not. Reads the footers of its pair files.

    ``known``: path → rows, for files whose footers were already read.
    """
    known = known or {}
    paths = storage.files(layout.pairs_folder(interval))
    footers = read_ahead(storage.footer, (path for path in paths if path not in known))
    return sum(rows for _, rows in footers) + sum(known[path] for path in paths if path in known)


def paired_at(storage: Storage, interval: Interval) -> datetime | None:
    """When the newest of the interval's pair files was written. None if there are no such files."""
    return max((file.modified for file in storage.tree(layout.pairs_folder(interval))), default=None)


def paired_buckets(storage: Storage, interval: Interval) -> int:
    """Number of buckets that are already joined for the interval."""
    return len(storage.files(layout.pairs_folder(interval)))


def paired_with_others(storage: Storage, within: Iterable[Interval], rules: PairRules) -> list[Interval]:
    """The intervals of ``within`` whose pairs were made with rules other than ``rules``.

    The next run of such an interval replaces its pairs.
    """
    found = []
    for interval in within:
        if files := storage.files(layout.pairs_folder(interval)):
            made_with = PairRules.recorded(storage.footer(files[0])[0])
            if made_with is not None and made_with != rules:
                found.append(interval)
    return found
