"""Estimates GPU hours and cost of all waiting work: pairs in planned units, and pairs that are in no unit yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import Connection, Engine

from capsfusion_tasks.context import Context
from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.image_results import ImageResults, batches_of
from capsfusion_tasks.planning import waiting
from capsfusion_tasks.planning.estimate import NOTHING, Estimate, Rate, Work, benchmark_rate, given_rate, measured_rate
from capsfusion_tasks.planning.new_pairs import count_new_pairs
from capsfusion_tasks.planning.tokens import DEFAULT, TokenEstimate, estimate_for
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.shards.listing import image_result_files
from capsfusion_tasks.shards.sources import image_results_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import fusions, ledger, plans, rates
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.plans import WholePlan

log = logging.getLogger(__name__)


def estimate(
    context: Context,
    within: Interval | None = None,
    *,
    gpus: int | None = None,
    rows_per_second: float | None = None,
) -> Estimate:
    """Estimate all waiting work, or only the work of the intervals inside ``within``. Plans no units.

    ``gpus``: devices that work in parallel. ``rows_per_second``: rate of one device, instead of the measured rate.
    """
    settings, storage, decoding = context.settings, context.storage, context.decoding
    seen = waiting.intervals(storage, within)
    if outdated_pairs := waiting.paired_with_others(storage, seen, PairRules.of(settings)):
        log.warning(
            "the pairs of %d intervals were made with settings that have changed since. To make these pairs again, run:"
            " %s",
            len(outdated_pairs),
            waiting.whole_range(storage).command,  # all intervals, because each join reads the shards of all intervals
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
        rate = given_rate(rows_per_second, waits.tokens / waits.rows, "the given rows per second")
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
    """The paths of all pair files of ``works`` (intervals or replays)."""
    return (path for work in works for path in storage.files(layout.pairs_folder(work)))


def longest_row(decoding: Decoding) -> int:
    """The maximum number of tokens of a row: the tokens of the longest prompt plus those of the longest caption."""
    return MAX_PROMPT_TOKENS + decoding.max_new_tokens


def known_images(settings: Settings, storage: Storage) -> ImageResults | None:
    """The image results (which images are gone) that runs have read from the configured source.

    None if the settings fuse all pairs, including pairs whose images are gone.
    """
    if not settings.skips_gone_images:
        return None
    place = image_results_source(settings)
    batches = batches_of(storage, place.origin.model_dump(mode="json")) if place else []
    return ImageResults(storage, tuple(batches))


def _warn_of_other_files(settings: Settings, images: ImageResults) -> None:
    """Log a warning if the source of image results has new files, or lacks files from which ``images`` was read."""
    listed = {shard.shard_id for shard in image_result_files(settings)}
    read = {shard_id for batch in images.batches for shard_id in batch.files}
    if unread := len(listed - read):
        log.warning(
            "the estimate ignores %d files of image results that are not read yet; the next run reads them", unread
        )
    if removed := len(read - listed):
        log.warning(
            "the estimate uses %d files of image results that are no longer in the source; the next run ignores them",
            removed,
        )


def unplanned_work(
    engine: Engine,
    storage: Storage,
    fusion_id: str,
    intervals: list[Interval],
    images: ImageResults | None,
    tokens: TokenEstimate = DEFAULT,
) -> tuple[Work, Work]:
    """Count the pairs of ``intervals`` that are neither in a unit nor in the warehouse.

    Returns the work of pairs to fuse, then the work of pairs whose images are gone according to ``images``.
    """
    with engine.connect() as connection:
        in_units = {interval: rates.pairs_in_units(connection, fusion_id, interval) for interval in intervals}
        whole = plans.whole_plans(connection, fusion_id)
        open_units = ledger.open_units(connection, fusion_id)
    unfinished = [
        interval for interval, rows in in_units.items() if not _is_planned(storage, interval, rows, whole.get(interval))
    ]
    if not unfinished:
        return NOTHING, NOTHING
    is_known = partial(known_pairs, engine.begin, fusion_id)
    return count_new_pairs(storage, unfinished, is_known, open_units, tokens, images)


def _is_planned(storage: Storage, interval: Interval, in_units: int, last: WholePlan | None) -> bool:
    """Whether all pairs of the interval are certainly in its units. Does not read the pairs.

    Comparing numbers of pairs is not enough: if the interval was paired again with other settings or shards, its units
    have other pairs than its pair files. So the last plan must be newer than the pair files, and must have planned all
    of their pairs.
    """
    paired = waiting.paired_rows(storage, interval)
    if not paired:
        return True
    if last is None or last.pairs != paired or in_units < paired:  # fewer: a unit was lost after the plan
        return False
    written = waiting.paired_at(storage, interval)
    return written is not None and written <= last.planned_at


def rate_of(connection: Connection, decoding: Decoding) -> Rate | None:
    """The rate of one device for this fusion, from earlier units or else from a benchmark. None if unknown."""
    measured = rates.measured(connection, decoding.fusion_id)
    return measured_rate(measured) if measured else benchmark_rate(decoding)
