"""One function for each task of an interval (the time range of a run).

Each function runs a stage and updates the ledger, the warehouse's record of shards and units. ``capsfusion run`` and
the DAG call these functions. Arguments and results are small (shards, units, counts). Rows are passed on in files. An
``InputError`` means that a retry will not help.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.identity import configured_model
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.buckets import split_counts, split_shard
from capsfusion_tasks.pairing.database import JOINS_AT_ONCE
from capsfusion_tasks.pairing.join import left_out_of, pair_bucket
from capsfusion_tasks.pairing.url_limit import LeftOut
from capsfusion_tasks.planning import waiting
from capsfusion_tasks.planning.estimate import UNLIMITED, Budget
from capsfusion_tasks.planning.forecast import known_images, pair_paths, unplanned_work
from capsfusion_tasks.planning.new_pairs import NewPairs, new_pairs
from capsfusion_tasks.planning.pair_files import IsKnown
from capsfusion_tasks.planning.plan import OnEstimate, outdated, plan_units
from capsfusion_tasks.planning.tokens import estimate_for
from capsfusion_tasks.pull_rules import PairRules, PullRules
from capsfusion_tasks.schemas import Existing, Shard, Side, Unit
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.shards.listing import dates, image_result_files
from capsfusion_tasks.shards.sources import configured_sources, image_results_source, opened
from capsfusion_tasks.tasks.export import export_captions, export_target
from capsfusion_tasks.tasks.image_results import read_image_results
from capsfusion_tasks.tasks.replay import warn_of_replayed
from capsfusion_tasks.tasks.report import report_interval
from capsfusion_tasks.tasks.staging_area import fix_buckets
from capsfusion_tasks.upkeep.check import check as run_checks
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.export_selection import Selection
from capsfusion_tasks.warehouse.invariants import pull_again
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.queries import Scope
from capsfusion_tasks.warehouse.sessions import LockedSession

log = logging.getLogger(__name__)

# There is one pair task per this many bytes of pulled shards. The work of pairing grows with the bytes of all pulled
# shards, because new rows are joined with all old rows.
_PAIR_TASK_BYTES = 4 << 30
_PAIR_TASKS_MAX = 64
_PROGRESS_SECONDS = 30.0


def discover(
    context: Context,
    interval: Interval,
    *,
    relist: bool = False,
    replan: bool = False,
    on_none: Callable[[list[str]], None] = lambda _: None,
) -> list[Shard]:
    """List the shards of the interval and late shards of other intervals, and register them in the ledger.

    A late shard appeared in its source after the run of its own interval had listed the source.

    Raises InputError if shards were pulled or units were planned with other settings, unless this run may replace them.
    After the interval's end, the list is frozen. ``relist`` lists the sources again and adds new shards to a frozen
    list. ``replan``: see ``plan``. If the interval has no shard, ``on_none`` gets a line about each source's shards.
    """
    settings, storage, engine = context.settings, context.storage, context.warehouse.engine
    if context.fusion_id is None:
        configured_model(settings)  # reports a wrong model or prompt now, not after all shards are pulled and paired
    sources = configured_sources(settings)
    # Planning reads the files of image results. List them already here, so that a wrong address is reported early.
    image_results = image_result_files(settings)
    with engine.connect() as connection:
        planned = ledger.units_of(connection, None, interval)
    if planned:
        mine = [one for one in planned if one.unit.fusion_id == context.decoding.fusion_id]
        outdated(mine, storage, settings, interval, replan)

    def claim(late: list[Shard]) -> set[str]:
        with engine.begin() as connection:
            claimed = ledger.claim_late(connection, late, interval)
        for shard in late:
            if shard.shard_id in claimed:
                log.info(
                    "discover: %s arrived %s, but the run of its interval did not list it; this run includes the shard",
                    shard.label,
                    shard.arrived_at,
                )
        return claimed

    listed: dict[Side, list[Shard]] = {}
    shards = discovery.discover(
        sources,
        interval,
        storage,
        relist=relist,
        units=len(planned),
        image_results=image_results,
        remove=lambda gone: _remove_shards(context, interval, gone),
        claim=claim,
        on_listing=listed.__setitem__,
    )
    _require_pull_rules(context, interval, but={shard.shard_id for shard in shards})
    if shards:
        fix_buckets(context, listed)
    else:  # ``listed`` has all sources; do not list them again, because they may not answer any more
        on_none([dates(side, place, listed[side]) for side, place in sources.items()])
    with engine.begin() as connection:
        ledger.record_shards(connection, shards)
    return shards


def has_shards(context: Context, interval: Interval) -> bool:
    """Whether ``discover`` has found shards of the interval."""
    return bool(discovery.discovered(interval, context.storage))


def _remove_shards(context: Context, interval: Interval, gone: list[Shard]) -> None:
    """Remove the shards in ``gone`` from the buckets, unless another interval lists them."""
    storage = context.storage
    others = (one for one in waiting.intervals(storage) if one != interval)
    kept = {shard.shard_id for one in others for shard in discovery.discovered(one, storage)}
    gone = [shard for shard in gone if shard.shard_id not in kept]
    pull_again(context.warehouse.engine, [shard.shard_id for shard in gone])
    for number, shard in enumerate(gone, start=1):
        pulled.remove(storage, shard)
        log.info("discover: removed %s from the buckets (%d of %d)", shard.label, number, len(gone))


def _require_pull_rules(context: Context, interval: Interval, but: set[str]) -> None:
    """Raise InputError if shards were pulled with other settings than the current ones. Ignores shards in ``but``."""
    everything = waiting.whole_range(context.storage, interval)
    if everything == interval and but:
        mend = "These shards are not in the current sources: set CAPSFUSION_STAGING to an empty folder"
    else:
        mend = f"Pull and pair these shards again: {everything.command}"
    pulled.require_rules(context.storage, PullRules.of(context.settings), but=but, mend=mend)


def pull(context: Context, shard: Shard) -> dict[str, Any]:
    """Split the shard's rows into buckets by a hash of their URL. Marks an unreadable shard as failed in the ledger."""
    settings, storage, engine = context.settings, context.storage, context.warehouse.engine
    try:
        counts = split_counts(shard, storage, settings)
        if counts is None:  # the source may have deleted a pulled shard, so open it only if needed
            with opened(shard, settings) as stream:
                counts = split_shard(stream, shard, storage, settings)
    except (InputError, NotReadyError) as error:
        with engine.begin() as connection:
            ledger.shard_failed(connection, shard.shard_id, str(error))
        raise
    with engine.begin() as connection:
        ledger.shard_pulled(connection, shard.shard_id, counts.rows, counts.dropped)
    return {"shard": shard.label, **asdict(counts)}


def bucket_groups(context: Context) -> list[list[int]]:
    """The buckets that each pair task joins. By default, the number of tasks grows with the bytes of pulled shards."""
    settings = context.settings
    buckets = bucket_count(context.storage, settings)
    if settings.pair_tasks == "auto":
        with context.warehouse.engine.connect() as connection:
            tasks = min(_PAIR_TASKS_MAX, 1 + ledger.pulled_bytes(connection) // _PAIR_TASK_BYTES)
    else:
        tasks = settings.pair_tasks
    tasks = min(tasks, buckets)
    return [list(range(first, buckets, tasks)) for first in range(tasks)]


def pair(context: Context, interval: Interval, buckets: list[int]) -> dict[str, Any]:
    """Join the interval's new rows with all pulled rows, in each of ``buckets``."""
    settings, storage = context.settings, context.storage
    new = {shard.shard_id for shard in discovery.discovered(interval, storage)}
    _require_pull_rules(context, interval, but=set())
    pairs, left_out, told = 0, LeftOut(), time.monotonic()
    with ThreadPoolExecutor(JOINS_AT_ONCE) as pool:
        found = pool.map(lambda bucket: pair_bucket(bucket, new, interval, storage, settings), buckets)
        for done, joined in enumerate(found, start=1):
            pairs, left_out = pairs + joined.pairs, LeftOut.total([left_out, joined.left_out])
            if time.monotonic() > told + _PROGRESS_SECONDS:
                told = time.monotonic()
                log.info("joined %d of %d buckets, found %d pairs", done, len(buckets), pairs)
    if left_out.urls:
        log.warning("%s", left_out.text)
    return {"buckets": len(buckets), "pairs": pairs, "left_out": left_out.text}


def plan(
    context: Context,
    interval: Interval,
    *,
    limit: int | None = None,
    existing: Existing = "skip",
    dag_run_id: str | None = None,
    budget: Budget = UNLIMITED,
    on_estimate: OnEstimate | None = None,
    replan: bool = False,
    max_units: int | None = None,
) -> list[Unit]:
    """The units to fuse: the unfinished units of an earlier try of this interval, or else new units.

    First reads new image results, and leaves out pairs whose image could not be downloaded. Results that arrive later
    do not change planned units or loaded captions.

    Units are planned again if the settings for pulling, pairing or image results have changed since they were planned.
    If such a unit was started, this raises InputError, unless ``replan`` allows dropping its work.

    ``existing``: whether to skip pairs that are already fused, or to fuse them again. Raises InputError and plans
    nothing if the estimate exceeds ``budget``. ``on_estimate`` gets the estimate before this check. Pairs that do not
    fit in ``max_units`` units are left for another run. If ``existing`` is replace, the next run continues with the
    pairs that are not replaced yet. After all pairs are replaced, or after 30 days without a run that replaces
    pairs, the next run fuses all pairs again.
    """
    fusion_id = context.decoding.fusion_id
    read_image_results(context)
    images = known_images(context.settings, context.storage)

    def find(session: LockedSession, dropped: Set[str], replaced: Sequence[str]) -> list[NewPairs]:
        with session.transaction() as connection:
            in_flight = set(ledger.open_units(connection, fusion_id)) - dropped
        is_known: IsKnown = partial(
            known_pairs, session.transaction, fusion_id, unit_ids=None if existing == "skip" else replaced
        )
        return new_pairs(
            context.storage,
            interval,
            is_known=is_known,
            in_flight=in_flight,
            limit=limit,
            rules=PairRules.of(context.settings),
            estimate=estimate_for(context, session.transaction, pair_paths(context.storage, [interval])),
            images=images,
        )

    return plan_units(
        context,
        interval,
        find,
        limit=limit,
        existing=existing,
        dag_run_id=dag_run_id,
        budget=budget,
        on_estimate=on_estimate,
        replan=replan,
        max_units=max_units,
    )


def export(context: Context, interval: Interval, fusion_id: str, export_to: str) -> dict[str, Any]:
    """Export the interval's captions to ``export_to/<fusion_id>/<interval>``. Replaces an outdated export."""
    warn_of_replayed(context, interval, fusion_id)
    selection = Selection(fusion_id=fusion_id, interval=interval)
    folder = f"{export_to.rstrip('/')}/{fusion_id}/{interval.key}"
    with export_target(folder, context.settings.scratch_folder) as target:
        manifest = export_captions(context.warehouse, target, selection, overwrite="outdated", say=log.info)
        return {"target": target.path(""), "rows": manifest.rows, "files": len(manifest.files)}


def check(context: Context, interval: Interval, fusion_id: str | None) -> dict[str, Any]:
    """Look for lost, duplicated, incomplete and stuck rows and files of the interval.

    Returns ``findings``, the findings as ``text``, and ``account``: a summary of the checked rows and files. Checks one
    fusion, or all fusions if ``fusion_id`` is None. Leaves out failed shards and units, because the report lists them.
    """
    found = run_checks(context, Scope(interval=interval, fusion_id=fusion_id), footers=True)
    found.findings = [one for one in found.findings if one.rule not in ("shard-failed", "unit-failed")]
    text = "\n".join(f"check: {line}" for line in found.verdict())
    return {**found.as_dict(), "text": text, "account": "\n".join(found.lines())}


def report(
    context: Context, interval: Interval, fusion_id: str | None, unit_ids: Sequence[str] | None = None
) -> dict[str, Any]:
    """Report the counts of shards, pairs and captions, and the ``failures``. ``text`` is the whole report.

    ``unit_ids``: the units of one run, from ``plan``; None for all units of the interval. ``fusion_id``: the fusion to
    report. It is None if nothing was planned; the report then covers all fusions.
    """
    has_limit = PairRules.of(context.settings).url_pairs_max != "none"
    left_out = left_out_of(interval, context.storage).text if has_limit else ""
    engine = context.warehouse.engine
    left, gone = 0, None
    if fusion_id:
        unplanned = unplanned_work(
            engine, context.storage, fusion_id, [interval], known_images(context.settings, context.storage)
        )
        left, gone = (work.rows for work in unplanned)
    shard_ids = [shard.shard_id for shard in discovery.discovered(interval, context.storage)]
    with engine.begin() as connection:
        shard_ids += list(ledger.image_results(connection)) if image_results_source(context.settings) else []
        return report_interval(
            connection, interval, fusion_id, shard_ids, unplanned=left, gone=gone, left_out=left_out, unit_ids=unit_ids
        ).as_dict()
