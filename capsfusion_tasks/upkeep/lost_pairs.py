"""Buckets ↔ pairs ↔ units: rows that match are paired, and each pair is in a unit or in the warehouse."""

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
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.pair_files import BATCH_ROWS
from capsfusion_tasks.planning.plan import known_images
from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.staging import layout
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding, run_again
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.known_pairs import known_pairs

_SHARDS = ["laion_2b_shard", "laion_coco_shard"]


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Intervals that are paired in some buckets only, or were never planned; and empty files of pairs."""
    for interval in evidence.lists:
        folder = layout.pairs_folder(interval)
        there = evidence.listing.under(folder)
        if not there or not all(evidence.old(file) for file in there):
            continue
        missing = bucket_count(evidence.storage, evidence.settings) - len(there)
        if missing:
            what = f"{missing} buckets have no file of pairs, {len(there)} have one"
            yield Finding("pairs-incomplete", folder, what, run_again(interval))
        elif not any(planned == interval for planned, _ in evidence.left):
            what = "it is paired but was never planned: its run ended too early, or its budget was too small"
            yield Finding("never-planned", folder, what, run_again(interval))
    for file in evidence.listing.under(layout.RUNS):
        if "/pairs/" in file.path and not file.size:
            key = Interval.from_key(file.path.split("/")[1])
            yield Finding("pairs-unreadable", file.path, "the file is empty", run_again(key))


@dataclass
class Account:
    """Counts of the pairs under one fusion: loaded, in units, left out, lost."""

    fusion_id: str
    done: set[str]  # shards of the intervals that were planned under the fusion
    in_flight: PairsInFlight
    found: Counter[str] = field(default_factory=Counter)
    lost: Counter[Interval] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        names = ("in the warehouse", "in units", "image gone", "left for a limit", "waiting for a run", "lost")
        return {name: self.found[name] for name in names}


def accounts(evidence: Evidence) -> tuple[list[Account], Counter[str]]:
    """Join all buckets again, one after the other. Returns an account of the pairs of each fusion.

    If the intervals of both shards of a pair were planned, the pair must be in the warehouse or in a unit. Otherwise
    its image is gone, a limit of one of the two plans left it out, or it is lost. Pairs of shards that were not planned
    yet wait for a run.

    The second value is, for each side, the number of rows that have a partner. Rows with equal texts count once.
    """
    home = {shard.shard_id: interval for interval, shards in evidence.lists.items() for shard in shards}
    limited = {work for work, left in evidence.left.items() if left}
    shards_of: dict[str, set[str]] = defaultdict(set)
    for interval, fusion_id in evidence.left:
        shards_of[fusion_id] |= {shard.shard_id for shard in evidence.lists.get(interval, ())}
    with evidence.warehouse.engine.connect() as connection:
        made = [
            Account(fusion_id, done, PairsInFlight(evidence.storage, ledger.open_units(connection, fusion_id)))
            for fusion_id, done in sorted(shards_of.items())
        ]
    paired: Counter[str] = Counter()
    for batch in _batches(evidence, set(home), paired):
        for account in made:
            _count(account, evidence.warehouse.engine, batch, home, limited)
    return made, paired


@dataclass
class Batch:
    """Pairs of some buckets: their ids, the shards of their rows, and whether their images are ``gone``."""

    buckets: set[str]
    pairs: pa.Table


def _batches(evidence: Evidence, shards: set[str], paired: Counter[str]) -> Iterator[Batch]:
    """Join all buckets, and add to ``paired`` the number of rows of each side that have a partner."""
    buckets: set[str] = set()
    tables: list[pa.Table] = []
    rows, images = 0, known_images(evidence.settings, evidence.storage)
    for bucket in range(bucket_count(evidence.storage, evidence.settings) if shards else 0):
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


def _count(
    account: Account,
    engine: Engine,
    batch: Batch,
    home: dict[str, Interval],
    limited: set[tuple[Interval, str]],
) -> None:
    # Read units before the warehouse. A unit that is loaded in between is then found twice, not missed.
    ids = batch.pairs["pair_id"].combine_chunks()
    in_units = account.in_flight.contain(ids, batch.buckets)
    known = known_pairs(engine.begin, account.fusion_id, ids).to_numpy(zero_copy_only=False)
    done = pa.array(sorted(account.done), pa.string())
    expected = np.logical_and(*(pc.is_in(batch.pairs[side], value_set=done).to_numpy() for side in _SHARDS))
    in_units = in_units & ~known
    nowhere = ~known & ~in_units
    account.found["in the warehouse"] += int(known.sum())
    account.found["in units"] += int(in_units.sum())
    gone = nowhere & batch.pairs["gone"].to_numpy()
    nowhere &= ~gone
    account.found["image gone"] += int(gone.sum())
    account.found["waiting for a run"] += int((nowhere & ~expected).sum())
    for pair in batch.pairs.select(_SHARDS).take(pa.array(np.flatnonzero(nowhere & expected))).to_pylist():
        intervals = sorted((home[pair[side]] for side in _SHARDS), key=lambda interval: interval.end)
        if any((interval, account.fusion_id) in limited for interval in intervals):
            account.found["left for a limit"] += 1
        else:
            account.found["lost"] += 1
            account.lost[intervals[-1]] += 1


def lost(account: Account) -> Iterator[Finding]:
    """A finding for each interval with lost pairs."""
    for interval, pairs in account.lost.items():
        what = f"{pairs} pairs of its buckets are neither in a unit nor in the warehouse, and no limit left them out"
        yield Finding("pairs-lost", f"{interval.key}, fusion {account.fusion_id}", what, run_again(interval))
