"""One function per task of an interval: calls the stage, keeps the ledger. `capsfusion run` and the DAG call these.

Arguments and results are small (settings, shards, units, counts); rows travel in files only. What trying again will
not mend is raised as ``InputError``.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.identity import Fusion, identify
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.buckets import split_counts, split_shard
from capsfusion_tasks.pairing.join import pair_bucket
from capsfusion_tasks.planning import unit_files, waiting
from capsfusion_tasks.planning.estimate import UNLIMITED, Budget
from capsfusion_tasks.planning.plan import OnEstimate, outdated, plan_units, unplanned
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import Existing, Shard, Unit
from capsfusion_tasks.settings import Interval, Settings
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.export import export_captions
from capsfusion_tasks.tasks.report import report_interval
from capsfusion_tasks.upkeep.check import check as run_checks
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.export import Selection
from capsfusion_tasks.warehouse.invariants import pull_again
from capsfusion_tasks.warehouse.queries import Scope

log = logging.getLogger(__name__)

# One pair task per so many bytes of shards: what a new row is joined with is everything that is there.
_PAIR_TASK_BYTES = 4 << 30
_PAIR_TASKS_MAX = 64
_PROGRESS_SECONDS = 30.0
_BUCKETS_AT_ONCE = 3  # while one is read, another is joined and a third written


def discover(settings: Settings, interval: Interval, *, relist: bool = False, replan: bool = False) -> list[Shard]:
    """The shards of the interval, now in the ledger.

    Raises InputError, before anything is pulled, for state that was made with other settings and that this run may not
    replace. ``relist`` adds to a frozen list what its sources have now; ``replan`` as for ``plan``.
    """
    storage = Storage(settings.staging_uri)
    sources = discovery.sources(settings)
    with open_warehouse(settings) as warehouse:
        with warehouse.engine.connect() as connection:
            units = ledger.units_planned(connection, interval)
            if units:
                planned = ledger.units_of(connection, identify(settings).fusion_id, interval)
                outdated(planned, storage, settings, interval, replan)
        shards = discovery.discover(
            sources,
            interval,
            storage,
            relist=relist,
            units=units,
            remove=lambda gone: _remove_shards(warehouse, storage, interval, gone),
        )
        ids = {shard.shard_id for shard in shards}
        _require_pull_rules(storage, settings, interval, but=ids)
        if shards:
            with ledger.staging_lock(warehouse.engine, storage.root):
                bucket_count(storage, settings, lambda: discovery.source_bytes(sources))
        with warehouse.engine.begin() as connection:
            ledger.record_shards(connection, shards)
    return shards


def _remove_shards(warehouse: Warehouse, storage: Storage, interval: Interval, gone: list[Shard]) -> None:
    """Take ``gone`` out of the buckets: they leave the interval's list. What other intervals have listed stays."""
    others = (one for one in waiting.intervals(storage) if one != interval)
    kept = {shard.shard_id for one in others for shard in discovery.discovered(one, storage)}
    gone = [shard for shard in gone if shard.shard_id not in kept]
    pull_again(warehouse.engine, [shard.shard_id for shard in gone])
    for shard in gone:
        pulled.remove(storage, shard)


def _require_pull_rules(storage: Storage, settings: Settings, interval: Interval, but: set[str]) -> None:
    """Raise InputError where the buckets have shards that were pulled with other settings, ``but`` for these."""
    seen = [interval, *waiting.intervals(storage)]
    everything = Interval(start=min(one.start for one in seen), end=max(one.end for one in seen))
    if everything == interval and but:
        mend = "They are not in the sources of now: name an empty CAPSFUSION_STAGING"
    else:
        mend = f"Pull and pair them again: {everything.command}"
    pulled.require_rules(storage, PullRules.of(settings), but=but, mend=mend)


def pull(settings: Settings, shard: Shard) -> dict[str, Any]:
    """Split the shard into hash buckets. A shard that cannot be used is marked failed in the ledger, with its error."""
    storage = Storage(settings.staging_uri)
    with open_warehouse(settings) as warehouse:
        try:
            counts = split_counts(shard, storage, settings)
            if counts is None:  # else the shard need not be fetched again, nor be there still
                with discovery.source_of(shard, settings).open(shard) as stream:
                    counts = split_shard(stream, shard, storage, settings)
        except (InputError, NotReadyError) as error:
            with warehouse.engine.begin() as connection:
                ledger.shard_failed(connection, shard.shard_id, str(error))
            raise
        with warehouse.engine.begin() as connection:
            ledger.shard_pulled(connection, shard.shard_id, counts.rows, counts.dropped)
    return {"shard": shard.label, "rows": counts.rows, "dropped": counts.dropped}


def bucket_groups(settings: Settings) -> list[list[int]]:
    """The buckets that each pair task joins: as many tasks as what was pulled so far is worth."""
    buckets = bucket_count(Storage(settings.staging_uri), settings)
    if settings.pair_tasks == "auto":
        with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
            tasks = min(_PAIR_TASKS_MAX, 1 + ledger.pulled_bytes(connection) // _PAIR_TASK_BYTES)
    else:
        tasks = settings.pair_tasks
    tasks = min(tasks, buckets)
    return [list(range(first, buckets, tasks)) for first in range(tasks)]


def pair(settings: Settings, interval: Interval, buckets: list[int]) -> dict[str, Any]:
    """Join the interval's new rows with everything that is there, in each of ``buckets``."""
    storage = Storage(settings.staging_uri)
    new = {shard.shard_id for shard in discovery.discovered(interval, storage)}
    _require_pull_rules(storage, settings, interval, but=set())
    pairs, told = 0, time.monotonic()
    with ThreadPoolExecutor(_BUCKETS_AT_ONCE) as pool:
        found = pool.map(lambda bucket: pair_bucket(bucket, new, interval, storage, settings), buckets)
        for done, count in enumerate(found, start=1):
            pairs += count
            if time.monotonic() > told + _PROGRESS_SECONDS:
                told = time.monotonic()
                log.info("%d/%d buckets are joined, %d pairs", done, len(buckets), pairs)
    return {"buckets": len(buckets), "pairs": pairs}


def plan(
    settings: Settings,
    interval: Interval,
    *,
    limit: int | None = None,
    existing: Existing = "skip",
    dag_run_id: str | None = None,
    budget: Budget = UNLIMITED,
    on_estimate: OnEstimate | None = None,
    replan: bool = False,
) -> list[Unit]:
    """The units to fuse: those that an earlier try of this interval left unfinished, else new ones.

    Units that were planned with other settings for pulling and pairing are planned anew. Where one of them is begun,
    it raises InputError instead; ``replan`` drops their work.

    ``existing`` says what becomes of pairs that are fused already: skipped, or fused again and replaced. Raises
    InputError, and plans nothing, where fusing them is estimated to take more than ``budget``; ``on_estimate`` gets the
    estimate before that.
    """
    storage = Storage(settings.staging_uri)

    def find(connection: Connection, fusion: Fusion) -> list[unit_files.NewPairs]:
        return unit_files.new_pairs(
            storage,
            interval,
            is_known=lambda ids: ledger.known_pairs(connection, fusion.fusion_id, ids) if existing == "skip" else None,
            in_flight=ledger.open_units(connection, fusion.fusion_id),
            limit=limit,
            rules=PullRules.of(settings),
        )

    with open_warehouse(settings) as warehouse:
        return plan_units(
            warehouse,
            settings,
            interval,
            find,
            existing=existing,
            dag_run_id=dag_run_id,
            budget=budget,
            on_estimate=on_estimate,
            replan=replan,
        )


def export(settings: Settings, interval: Interval, export_to: str) -> dict[str, Any]:
    """The interval's captions as files in ``export_to/<fusion_id>/<interval>``; anew, where there are others now."""
    fusion_id = identify(settings).fusion_id
    storage = Storage(f"{export_to.rstrip('/')}/{fusion_id}/{interval.key}")
    selection = Selection(fusion_id=fusion_id, interval=interval)
    with open_warehouse(settings) as warehouse:
        manifest = export_captions(warehouse, storage, selection, overwrite="outdated", say=log.info)
    return {"target": storage.path(""), "rows": manifest.rows, "files": len(manifest.files)}


def check(settings: Settings, interval: Interval) -> dict[str, Any]:
    """What is lost, doubled, half-written or stuck of the interval: ``findings``, as ``text`` and, with what was looked
    at, as ``account``.

    Shards and units that failed are left out: the report has them.
    """
    found = run_checks(settings, Scope(interval=interval, fusion_id=identify(settings).fusion_id), footers=True)
    found.findings = [one for one in found.findings if one.rule not in ("shard-failed", "unit-failed")]
    text = "\n".join(f"check: {line}" for line in found.verdict())
    return {**found.as_dict(), "text": text, "account": "\n".join(found.lines())}


def report(settings: Settings, interval: Interval) -> dict[str, Any]:
    """What came in and what came out: counts, ``failures``, and all of it as ``text``."""
    storage = Storage(settings.staging_uri)
    fusion_id = identify(settings).fusion_id
    shards = discovery.discovered(interval, storage)
    with open_warehouse(settings) as warehouse, warehouse.engine.begin() as connection:
        left = unplanned(connection, storage, fusion_id, [interval]).rows
        return report_interval(connection, interval, fusion_id, shards, unplanned=left).as_dict()
