"""Plans the work units of an interval or a replay, and estimates what all waiting work takes.

Planning holds a lock, keeps to a budget, and registers the units in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Set
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection, Engine

from capsfusion_tasks.context import Context
from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import template_of
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.image_results import ImageResults, batches_of
from capsfusion_tasks.planning import unit_files, waiting
from capsfusion_tasks.planning.estimate import (
    NOTHING,
    Budget,
    Estimate,
    Rate,
    Work,
    benchmark_rate,
    given_rate,
    measured_rate,
)
from capsfusion_tasks.planning.new_pairs import NewPairs, count_new_pairs
from capsfusion_tasks.planning.tokens import DEFAULT, TokenEstimate, estimate_for
from capsfusion_tasks.pull_rules import PairRules, UnitRules
from capsfusion_tasks.schemas import Existing, Replay, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.shards.listing import image_result_files
from capsfusion_tasks.shards.sources import image_results_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import fusions, ledger, plans, rates
from capsfusion_tasks.warehouse.invariants import drop_plan, hold_units
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.sessions import LockedSession

log = logging.getLogger(__name__)

OnEstimate = Callable[[Estimate], None]
# A function that finds new pairs in a planning session. Its ids name unfinished units that this planning drops.
FindPairs = Callable[[LockedSession, Set[str]], list[NewPairs]]


def plan_units(
    context: Context,
    work: Interval | Replay,
    find_pairs: FindPairs,
    *,
    existing: Existing,
    dag_run_id: str | None,
    budget: Budget,
    on_estimate: OnEstimate | None,
    needs_gpu: bool = True,
    replan: bool = False,
    max_units: int | None = None,
) -> list[Unit]:
    """The units to fuse: the unfinished ones of an earlier try, or else new ones with the pairs of ``find_pairs``.

    Raises InputError and plans nothing if the estimate exceeds ``budget``. ``on_estimate`` gets the estimate first.
    Without ``needs_gpu`` the captions exist already, and the estimate is zero.

    Units that were planned with other rules (``pull_rules.UnitRules``) are dropped and planned again. If one of them
    was started, this raises InputError instead, unless ``replan`` is set.

    At most ``max_units`` new units are planned; pairs beyond them are left for another run. Raises NotReadyError if the
    session of the planning is lost, or a task works on a unit that would be dropped. An error registers nothing.
    """
    most = min(unit_files.MAX_UNITS, max_units or unit_files.MAX_UNITS)
    settings, storage, decoding = context.settings, context.storage, context.decoding
    rules = UnitRules.of(settings)

    def check(session: LockedSession, where: str, to_fuse: Work, gone: Work = NOTHING) -> None:
        with session.transaction() as connection:
            estimate = Estimate(
                {where: to_fuse if needs_gpu else Work()},
                rate_of(connection, decoding),
                datetime.now(UTC),
                price=settings.gpu_hour_price,
                gone=gone,
                earlier=fusions.earlier(connection, decoding),
            )
        log.info("%s", estimate.text)
        if on_estimate:
            on_estimate(estimate)
        budget.check(estimate)

    about = {"prompt_template": template_of(decoding).text, "max_prompt_tokens": MAX_PROMPT_TOKENS}
    with context.warehouse.engine.begin() as connection:
        fusions.register(connection, decoding, about)
    # The lock lets only one run plan at a time, so that two runs never plan the same pair. No transaction is open while
    # files are read and written. The last transaction makes all units visible together.
    with ledger.planning_lock(context.warehouse.engine, decoding.fusion_id) as session:
        with session.transaction() as connection:
            planned = ledger.units_of(connection, decoding.fusion_id, work)
        unfinished = [unit for unit, state in planned if state != "loaded"]
        dropped: set[str] = set()
        if isinstance(work, Interval) and outdated(planned, storage, settings, work, replan):
            dropped = {unit.unit_id for unit in unfinished}
            hold_units(session, dropped)
        elif unfinished:
            to_fuse = (unit for unit, state in planned if state not in ("fused", "loaded"))
            check(session, "planned before, to fuse", Work.of(to_fuse, longest_row(decoding)))
            return unfinished
        pairs = find_pairs(session, dropped)
        total = Work(sum(len(part.rows) for part in pairs), sum(int(part.tokens.sum()) for part in pairs))
        gone = sum((part.gone for part in pairs), start=NOTHING)
        check(session, "to fuse", total, gone)
        size = settings.unit_tokens
        if size == "auto":
            with session.transaction() as connection:
                measured = rates.measured(connection, decoding.fusion_id)
            size = unit_files.choose_unit_tokens(total.tokens, measured and measured.tokens_per_second.median, most)
        made_with = rules if isinstance(work, Interval) else None
        loaded = len(planned) - len(unfinished)
        units = unit_files.cut_units(storage, pairs, work, decoding.fusion_id, size, loaded, made_with, most)
        rows = sum(unit.rows for unit in units)
        if left := total.rows - rows:
            more = (
                "" if most == unit_files.MAX_UNITS else f", or AIRFLOW__CORE__MAX_MAP_LENGTH to {unit_files.MAX_UNITS}"
            )
            log.warning(
                "%d pairs are left, because a run has at most %d units. Run it again when these are loaded, or raise"
                " CAPSFUSION_UNIT_TOKENS%s",
                left,
                most,
                more,
            )
        known = {part.path: part.rows_in_file for part in pairs}
        paired = waiting.paired_rows(storage, work, known) if isinstance(work, Interval) else 0
        with session.transaction() as connection:
            if isinstance(work, Interval) and dropped:
                drop_plan(connection, work, decoding.fusion_id, dropped)
            ledger.register_units(connection, units, work, dag_run_id, existing)
            if isinstance(work, Interval):
                plans.record(
                    connection,
                    work,
                    decoding.fusion_id,
                    dag_run_id,
                    pairs=paired,
                    already_fused=sum(part.taken for part in pairs),
                    planned=rows,
                    gone=gone.rows,
                )
    return units


def outdated(
    planned: list[tuple[Unit, str]], storage: Storage, settings: Settings, interval: Interval, replan: bool = False
) -> bool:
    """Whether unfinished units of ``planned`` were planned with other rules than the current ones.

    Raises InputError if one of these units was started, unless ``replan`` is set.
    """
    rules = UnitRules.of(settings)
    unfinished = [(unit, state) for unit, state in planned if state != "loaded"]
    if not unfinished:
        return False
    # All of these units come from one planning, so they have the same rules.
    made_with = unit_files.rules_of(storage, unfinished[0][0].unit_id)
    if made_with is None:
        # The first unit last, because a rerun after a crash reads the rules of that unit.
        for unit, _ in reversed(unfinished):
            unit_files.record_rules(storage, unit.unit_id, rules)
    if made_with is None or made_with == rules:
        return False
    begun = [unit for unit, state in unfinished if state != "planned"]
    if begun and not replan:
        back = made_with.variables(rules)
        raise InputError(
            f"{len(unfinished)} units of this interval were planned with {made_with.against(rules)}, and {len(begun)}"
            f" have been started. Finish them: {back} {interval.command}; or drop their work: {interval.command}"
            " --replan (in Airflow: the Param replan)"
        )
    log.warning(
        "plan: %d units are dropped and planned again, because they were planned with %s",
        len(unfinished),
        made_with.against(rules),
    )
    return True


def estimate(
    context: Context,
    within: Interval | None = None,
    *,
    gpus: int | None = None,
    rows_per_second: float | None = None,
) -> Estimate:
    """Estimate all waiting work, or that of the intervals inside ``within``. Plans nothing.

    ``gpus`` devices work in parallel. ``rows_per_second``, of one device, overrides the measured rate.
    """
    settings, storage, decoding = context.settings, context.storage, context.decoding
    seen = waiting.intervals(storage, within)
    if outdated_pairs := waiting.paired_with_others(storage, seen, PairRules.of(settings)):
        log.warning(
            "the pairs of %d intervals were made with other settings. Make them again with: %s",
            len(outdated_pairs),
            waiting.whole_range(storage).command,  # a join reads all shards, so all must be pulled again
        )
    engine = context.warehouse.engine
    tokens = estimate_for(context, engine.begin, pair_paths(storage, reversed(seen)))
    images = known_images(settings, storage)
    if images is not None:
        _warn_of_other_files(settings, images)
    unplanned, gone = unplanned_work(engine, storage, decoding.fusion_id, seen, images, tokens)
    with engine.begin() as connection:
        planned = rates.unfused(connection, decoding.fusion_id, within, longest_row=longest_row(decoding))
        work = {"planned, not fused": Work(*planned), "paired, not planned": unplanned}
        rate = rate_of(connection, decoding)
        earlier = fusions.earlier(connection, decoding)
    waits = sum(work.values(), start=Work())
    if rows_per_second is not None and waits.rows:
        rate = given_rate(rows_per_second, waits.tokens / waits.rows, "as given")
    listed = ((interval, discovery.discovered(interval, storage)) for interval in seen)
    unpaired = [
        shard
        for interval, shards in listed
        if shards and waiting.paired_buckets(storage, interval) < bucket_count(storage, settings)
        for shard in shards
    ]
    return Estimate(
        work,
        rate,
        now=datetime.now(UTC),
        gpus=gpus,
        price=settings.gpu_hour_price,
        unpaired_shards=len(unpaired),
        unpaired_bytes=sum(shard.size_bytes for shard in unpaired),
        gone=gone,
        earlier=earlier,
    )


def pair_paths(storage: Storage, works: Iterable[Interval | Replay]) -> Iterator[str]:
    """The files of pairs of intervals or replays."""
    return (path for work in works for path in storage.files(layout.pairs_folder(work)))


def longest_row(decoding: Decoding) -> int:
    """The most tokens that a row can have, because prompts and captions are limited."""
    return MAX_PROMPT_TOKENS + decoding.max_new_tokens


def known_images(settings: Settings, storage: Storage) -> ImageResults | None:
    """The image results that runs have read from the configured source. None: pairs with gone images are kept."""
    if not settings.skips_gone_images:
        return None
    place = image_results_source(settings)
    batches = batches_of(storage, place.origin.model_dump(mode="json")) if place else []
    return ImageResults(storage, tuple(batches))


def _warn_of_other_files(settings: Settings, images: ImageResults) -> None:
    """Say if the source of image results has other files than those that ``images`` are from."""
    listed = {shard.shard_id for shard in image_result_files(settings)}
    read = {shard_id for batch in images.batches for shard_id in batch.files}
    if unread := len(listed - read):
        log.warning("%d files of image results are not read yet and do not count here; the next run reads them", unread)
    if removed := len(read - listed):
        log.warning(
            "%d files of image results have left the source, and still count here, but not in the next run", removed
        )


def unplanned_work(
    engine: Engine,
    storage: Storage,
    fusion_id: str,
    intervals: list[Interval],
    images: ImageResults | None,
    tokens: TokenEstimate = DEFAULT,
) -> tuple[Work, Work]:
    """The pairs of the intervals that are neither in a unit nor in the warehouse.

    First those to fuse, then those whose images are gone, as ``images`` says.
    """
    with engine.connect() as connection:
        in_units = [rates.pairs_in_units(connection, fusion_id, interval) for interval in intervals]
        open_units = ledger.open_units(connection, fusion_id)
    unfinished = [
        interval
        for interval, rows in zip(intervals, in_units, strict=True)
        if waiting.paired_rows(storage, interval) > rows
    ]
    if not unfinished:
        return NOTHING, NOTHING
    is_known = partial(known_pairs, engine.begin, fusion_id)
    return count_new_pairs(storage, unfinished, is_known, open_units, tokens, images)


def rate_of(connection: Connection, decoding: Decoding) -> Rate | None:
    """The rate of one device for this fusion: the measured one, or a benchmark's. None: unknown."""
    measured = rates.measured(connection, decoding.fusion_id)
    return measured_rate(measured) if measured else benchmark_rate(decoding.model, decoding.engine)
