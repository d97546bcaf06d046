"""One function for each task of a replay. A replay fuses the pairs of rejected captions again.

The functions in ``unit_tasks`` fuse, validate and load the units of a replay, as they do for all other units.
`capsfusion replay` and the DAG ``capsfusion_replay`` call both modules.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine

from capsfusion_tasks.context import Context
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.replay_pairs import split_pairs
from capsfusion_tasks.planning.estimate import UNLIMITED, Budget
from capsfusion_tasks.planning.forecast import pair_paths
from capsfusion_tasks.planning.new_pairs import NewPairs, new_pairs
from capsfusion_tasks.planning.plan import OnEstimate, plan_units
from capsfusion_tasks.planning.tokens import estimate_for
from capsfusion_tasks.schemas import Existing, Replay, Unit
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.report import report_replay
from capsfusion_tasks.tasks.staging_area import fix_buckets
from capsfusion_tasks.warehouse import ledger, quarantine
from capsfusion_tasks.warehouse.queries import Scope, replayed_counts
from capsfusion_tasks.warehouse.sessions import LockedSession

log = logging.getLogger(__name__)


def plan(
    context: Context,
    replay: Replay,
    *,
    existing: Existing = "skip",
    dag_run_id: str | None = None,
    budget: Budget = UNLIMITED,
    on_estimate: OnEstimate | None = None,
    max_units: int | None = None,
) -> list[Unit]:
    """The units of the replay: the unfinished units of an earlier try, or else new units for the selected captions.

    If ``existing`` is skip, pairs that were already fused with the current settings are skipped. But if the rejected
    captions themselves were made with the current settings, they are validated again, because the validation rules may
    have changed. Of the pairs of these captions, only pairs without a caption are fused. If ``existing`` is replace,
    all pairs are fused. Pairs that do not fit in ``max_units`` units are left for another run. Raises InputError if the
    warehouse does not have the fusion_id, or if the estimate exceeds ``budget``.
    """
    engine = context.warehouse.engine
    as_they_are = replay.fusion_id == context.decoding.fusion_id and existing == "skip"
    with engine.connect() as connection:
        quarantine.require_fusion(connection, replay.fusion_id)
        needs_gpu = not as_they_are or quarantine.has_failed(connection, replay)
    fix_buckets(context)
    units = plan_units(
        context,
        replay,
        lambda session, _, judged: _select(context, session, replay, existing, judged),
        limit=replay.limit,
        existing=existing,
        dag_run_id=dag_run_id,
        budget=budget,
        on_estimate=on_estimate,
        needs_gpu=needs_gpu,
        max_units=max_units,
    )
    if replay.fusion_id == context.decoding.fusion_id:
        # A unit that an earlier run planned keeps that run's value of ``existing``. Only units with "skip" reuse the
        # rejected captions; units with "replace" are fused again.
        with engine.connect() as connection:
            planned = ledger.units_of(connection, replay.fusion_id, replay)
        skips = {one.unit.unit_id for one in planned if one.existing == "skip"}
        for unit in units:
            if unit.unit_id in skips:
                _take_over_captions(engine, context.storage, unit)
    return units


def _select(
    context: Context, session: LockedSession, replay: Replay, existing: Existing, judged: Sequence[str]
) -> list[NewPairs]:
    """Select rejected captions that are in no unfinished unit, and write their pairs to the staging area.

    ``judged``: loaded units of this replay. Their captions are left out, because an earlier run has replayed them.
    """
    settings, storage, fusion_id = context.settings, context.storage, context.decoding.fusion_id
    # Two replays must not select the same rejected caption. The planning lock does not prevent this: it belongs to the
    # fusion of the new captions, and two replays can fuse with different fusions.
    session.lock("replay", replay.fusion_id)
    with session.transaction() as connection:
        others = quarantine.units_in_flight(connection, replay.fusion_id)
        in_flight = sorted({*others, *ledger.open_units(connection, fusion_id)})
        taken = ledger.planned_rows(connection, in_flight)
    is_other = fusion_id != replay.fusion_id
    tables = quarantine.rejected_pairs(
        context.warehouse,
        replay,
        untried_under=fusion_id if is_other and existing == "skip" else None,
        not_of=judged,
        most=None if replay.limit is None else replay.limit + taken,
    )
    split_pairs(tables, replay, storage, settings, bucket_count(storage, settings))
    estimate = estimate_for(context, session.transaction, pair_paths(storage, [replay]))
    pairs = new_pairs(storage, replay, lambda _: None, in_flight, replay.limit, estimate=estimate)
    with session.transaction() as connection:
        matching = quarantine.matching(connection, replay)
    log.info(
        "replaying %d of the %d rejected captions of fusion %s that match the selection, under fusion %s; the others"
        " exceed the limit, are in unfinished units, or were already tried with these settings",
        sum(len(part.rows) for part in pairs),
        matching,
        replay.fusion_id,
        fusion_id,
    )
    return pairs


def _take_over_captions(engine: Engine, storage: Storage, unit: Unit) -> None:
    """Write the rejected captions of the unit's pairs as a chunk (file of fused rows): these pairs count as fused."""
    pairs = storage.read_table(layout.unit_pairs(unit.unit_id), columns=["pair_id", *CAPTION_COLUMNS])
    with engine.connect() as connection:
        known = quarantine.stored_captions(connection, unit.fusion_id, pairs["pair_id"])
    chunk_files.publish_known(storage, layout.chunks_folder(unit.unit_id), unit.fusion_id, pairs, known)


def moved(context: Context, name: str, fusion_id: str | None, unit_ids: Sequence[str]) -> int:
    """Number of rejected captions that these units of the replay ``name`` moved to ``fused_captions``."""
    with context.warehouse.engine.connect() as connection:
        return quarantine.moved(connection, name, fusion_id, unit_ids)


def report(context: Context, replay: Replay, fusion_id: str, unit_ids: Sequence[str] | None = None) -> dict[str, Any]:
    """Report how many captions the replay selected, moved to ``fused_captions``, and rejected again.

    ``fusion_id``: the fusion of the new captions. ``unit_ids``: the units of one run, from ``plan``; None for all units
    of the replay. ``failures`` lists failed units. ``text`` is the whole report.
    """
    with context.warehouse.engine.connect() as connection:
        return report_replay(connection, replay, fusion_id, unit_ids).as_dict()


def warn_of_replayed(context: Context, interval: Interval, fusion_id: str) -> None:
    """Warn how many rejected captions of an interval passed in a replay: an export of the interval lacks these."""
    with context.warehouse.engine.connect() as connection:
        mine = [one.unit.unit_id for one in ledger.units_of(connection, fusion_id, interval)]
        _, passed = replayed_counts(connection, Scope(unit_ids=mine))
    if passed:
        log.warning(
            "at least %d rejected captions of this interval were accepted in a later replay. The export of an interval"
            " has no captions of replays: to export them, run `capsfusion export` without an interval",
            passed,
        )
