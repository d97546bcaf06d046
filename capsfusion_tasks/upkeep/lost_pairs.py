"""Checks that matching rows of the buckets are paired, and that each pair is in a unit or in the warehouse."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.join import bucket_pairs
from capsfusion_tasks.planning.forecast import known_images
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.pair_files import BATCH_ROWS
from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.staging import layout
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding, run_again
from capsfusion_tasks.upkeep.progress import counted
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.plans import PlannedPairs

_SHARDS = ["laion_2b_shard", "laion_coco_shard"]


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Findings about empty files of pairs, and about intervals that are paired in part or were never planned."""
    paired = {}
    for interval in evidence.lists:
        files = evidence.listing.under(layout.pairs_folder(interval))
        if files and all(evidence.old(file) for file in files):
            paired[interval] = len(files)
    buckets = bucket_count(evidence.storage, evidence.settings) if paired else 0
    planned = {interval for interval, _ in evidence.plans}
    for interval, there in paired.items():
        folder = layout.pairs_folder(interval)
        if missing := buckets - there:
            what = f"{missing} buckets have no file of pairs, {there} buckets have one"
            yield Finding("pairs-incomplete", folder, what, run_again(interval))
        elif interval not in planned:
            what = "the interval is paired but was never planned: its run ended too early, or its plan was over budget"
            yield Finding("never-planned", folder, what, run_again(interval))
    for file in evidence.listing.under(layout.RUNS):
        if "/pairs/" in file.path and not file.size:
            key = Interval.from_key(file.path.split("/")[1])
            yield Finding("pairs-unreadable", file.path, "the file is empty", run_again(key))


@dataclass
class Account:
    """Counts of the pairs under one fusion: loaded, in units, left out, lost.

    If the intervals of both shards of a pair were planned, the pair should be in the warehouse or in a unit.
    ``gone`` and ``missing`` count such pairs that are in neither. A key is the set of the intervals of a pair's shards.
    ``gone``: pairs whose images could not be downloaded. ``missing``: all other pairs. ``gone_before``: ``missing``
    pairs whose images were gone when the pairs were planned.
    """

    fusion_id: str
    plans: dict[Interval, PlannedPairs]  # the last plan of each interval
    home: dict[str, Interval]  # shard_id → its interval, for the shards of the intervals in ``plans``
    in_flight: PairsInFlight
    found: Counter[str] = field(default_factory=Counter)
    gone: Counter[frozenset[Interval]] = field(default_factory=Counter)
    missing: Counter[frozenset[Interval]] = field(default_factory=Counter)
    gone_before: Counter[Interval] = field(default_factory=Counter)
    lost: Counter[Interval] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        names = (
            "in the warehouse",
            "in units",
            "image gone",
            "image gone when planned",
            "left for a limit",
            "waiting for a run",
            "lost",
        )
        return {name: self.found[name] for name in names}

    @property
    def advice(self) -> list[str]:
        """A line for each interval of ``gone_before``: how to fuse its pairs."""
        return [
            f"{interval.key}, fusion {self.fusion_id}: {pairs} pairs left out because their images were gone when the"
            f" interval was planned; to fuse those whose images exist now: {run_again(interval)}"
            for interval, pairs in sorted(self.gone_before.items(), key=lambda item: item[0].start)
        ]


def accounts(evidence: Evidence) -> tuple[list[Account], Counter[str]]:
    """Join all buckets again, one after the other. Returns an ``Account`` of the pairs of each fusion.

    If the intervals of both shards of a pair were planned, the pair must be in the warehouse or in a unit. A pair
    in neither of them is lost, unless its image is gone or a plan left it out. A plan leaves out pairs because of a
    limit, or because their images are gone at that time. A pair waits for a run if the interval of one of its
    shards was not planned.

    Also returns, for each side, the number of rows that have a partner. Rows with equal texts count once.
    """
    listed = {shard.shard_id for shards in evidence.lists.values() for shard in shards}
    plans_of: dict[str, dict[Interval, PlannedPairs]] = defaultdict(dict)
    for (interval, fusion_id), plan in evidence.plans.items():
        plans_of[fusion_id][interval] = plan
    made = []
    with evidence.warehouse.engine.connect() as connection:
        for fusion_id, plans in sorted(plans_of.items()):
            home = {shard.shard_id: interval for interval in plans for shard in evidence.lists.get(interval, ())}
            in_flight = PairsInFlight(evidence.storage, ledger.open_units(connection, fusion_id))
            made.append(Account(fusion_id, plans, home, in_flight))
    paired: Counter[str] = Counter()
    for batch in _batches(evidence, listed, paired):
        for account in made:
            _count(account, evidence.warehouse.engine, batch)
    for account in made:
        explain_missing(account)
    return made, paired


@dataclass
class Batch:
    """Pairs of some buckets: their ids, the shards of their rows, and whether their images are ``gone``."""

    buckets: set[str]
    pairs: pa.Table


def _batches(evidence: Evidence, shards: set[str], paired: Counter[str]) -> Iterator[Batch]:
    """Join all buckets, and yield their pairs. Adds to ``paired`` how many rows of each side have a partner."""
    buckets: set[str] = set()
    tables: list[pa.Table] = []
    rows, images = 0, known_images(evidence.settings, evidence.storage)
    count = bucket_count(evidence.storage, evidence.settings) if shards else 0
    for bucket in counted(range(count), evidence.doing, "joining buckets", count):
        buckets.add(name := layout.bucket_name(bucket))
        results = images.of_bucket(name) if images else None
        for pairs in bucket_pairs(bucket, shards, evidence.storage, evidence.settings):
            for side in PAIRED:
                paired[side] += pairs.group_by([f"{side}_shard", f"{side}_row"]).aggregate([]).num_rows
            gone = results.are_gone(pairs) if results else np.zeros(pairs.num_rows, bool)
            tables.append(pairs.select(["pair_id", *_SHARDS]).append_column("gone", pa.array(gone)))
            rows += pairs.num_rows
        if rows >= BATCH_ROWS:
            yield Batch(buckets, pa.concat_tables(tables))
            buckets, tables, rows = set(), [], 0
    if tables:
        yield Batch(buckets, pa.concat_tables(tables))


def _count(account: Account, engine: Engine, batch: Batch) -> None:
    # Read the units before the warehouse. If a unit is loaded in between, its pairs are found in both places. In the
    # other order, these pairs would be found in neither place.
    ids = batch.pairs["pair_id"].combine_chunks()
    in_units = account.in_flight.contain(ids, batch.buckets)
    known = known_pairs(engine.begin, account.fusion_id, ids).to_numpy(zero_copy_only=False)
    done = pa.array(sorted(account.home), pa.string())
    expected = np.logical_and(*(pc.is_in(batch.pairs[side], value_set=done).to_numpy() for side in _SHARDS))
    in_units = in_units & ~known
    nowhere = ~known & ~in_units
    gone = batch.pairs["gone"].to_numpy()
    account.found["in the warehouse"] += int(known.sum())
    account.found["in units"] += int(in_units.sum())
    account.found["image gone"] += int((nowhere & gone).sum())
    account.found["waiting for a run"] += int((nowhere & ~gone & ~expected).sum())
    for counts, which in ((account.gone, gone), (account.missing, ~gone)):
        shards = batch.pairs.select(_SHARDS).filter(pa.array(nowhere & expected & which))
        for row in shards.group_by(_SHARDS).aggregate([([], "count_all")]).to_pylist():
            counts[frozenset(account.home[row[side]] for side in _SHARDS)] += row["count_all"]


def explain_missing(account: Account) -> None:
    """Explain each missing pair: a limit left it out, its image was gone when it was planned, or it is lost.

    A plan records how many pairs it left out because their images were gone, but not which pairs. First subtract from
    this number the pairs whose images are still gone. What remains is the number of missing pairs with this reason.
    """
    unused = Counter({interval: plan.gone for interval, plan in account.plans.items()})

    def left_out(intervals: list[Interval], pairs: int) -> Iterator[tuple[Interval, int]]:
        for interval in intervals:
            part = min(pairs, unused[interval])
            unused[interval] -= part
            pairs -= part
            if part:
                yield interval, part

    for counts in (account.gone, account.missing):
        # Explain pairs with shards of two intervals last, because the plan of either interval may have left them
        # out. Try the later plan first.
        for both, pairs in sorted(counts.items(), key=lambda item: len(item[0])):
            intervals = sorted(both, key=lambda interval: interval.end, reverse=True)
            limited = any(account.plans[interval].left for interval in intervals)
            if counts is account.missing and limited:
                account.found["left for a limit"] += pairs
                continue
            explained = dict(left_out(intervals, pairs))
            if counts is account.missing:
                account.gone_before.update(explained)
                account.found["image gone when planned"] += sum(explained.values())
                if lost := pairs - sum(explained.values()):
                    account.found["lost"] += lost
                    account.lost[intervals[0]] += lost


def lost(account: Account) -> Iterator[Finding]:
    """A finding for each interval with lost pairs."""
    for interval, pairs in account.lost.items():
        what = f"{pairs} pairs of the interval are neither in a unit nor in the warehouse, and no plan left them out"
        yield Finding("pairs-lost", f"{interval.key}, fusion {account.fusion_id}", what, run_again(interval))
