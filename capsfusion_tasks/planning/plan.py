"""Plans the work units of an interval or a replay: takes a lock, checks the budget, records units in the warehouse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import template_of
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning import unit_files, waiting
from capsfusion_tasks.planning.estimate import (
    NOTHING,
    Budget,
    Estimate,
    Work,
)
from capsfusion_tasks.planning.forecast import longest_row, rate_of
from capsfusion_tasks.planning.new_pairs import NewPairs
from capsfusion_tasks.pull_rules import UnitRules
from capsfusion_tasks.schemas import Existing, Replay, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import fusions, ledger, plans, rates, replacements
from capsfusion_tasks.warehouse.invariants import drop_plan, hold_units
from capsfusion_tasks.warehouse.ledger import PlannedUnit
from capsfusion_tasks.warehouse.sessions import LockedSession

log = logging.getLogger(__name__)

OnEstimate = Callable[[Estimate], None]
# A function that finds the pairs to plan. Its three arguments:
# - the database session that holds the planning lock
# - the ids of unfinished units that are dropped. Their pairs count as new.
# - the ids of loaded units of an unfinished replacement of captions. Their pairs are already replaced, so they are left
#   out (see ``replacements``).
FindPairs = Callable[[LockedSession, Set[str], Sequence[str]], list[NewPairs]]


def plan_units(
    context: Context,
    work: Interval | Replay,
    find_pairs: FindPairs,
    *,
    limit: int | None,
    existing: Existing,
    dag_run_id: str | None,
    budget: Budget,
    on_estimate: OnEstimate | None,
    needs_gpu: bool = True,
    replan: bool = False,
    max_units: int | None = None,
) -> list[Unit]:
    """The units to fuse: the unfinished units of an earlier try, or else new units of the pairs from ``find_pairs``.

    Calls ``on_estimate`` with the estimate. Raises InputError and plans nothing if the estimate exceeds ``budget``.
    ``needs_gpu`` is false if the captions already exist. In this case, the estimate is zero.

    Drops unfinished units that were planned with other rules (``pull_rules.UnitRules``) than the current ones, and
    plans their pairs again. If one of these units was started, raises InputError instead, unless ``replan`` is set.

    Plans at most ``max_units`` new units, and leaves the remaining pairs for further runs. If the runs replace captions
    (``existing`` is "replace"), each run continues with the pairs that the earlier runs left. When no pair is left, the
    next run starts a new replacement of all captions.

    Raises NotReadyError if the planning lock is lost, or if a task works on a unit that would be dropped. After any
    error, no new unit is registered.
    """
    most = min(unit_files.MAX_UNITS, max_units or unit_files.MAX_UNITS)
    settings, storage, decoding = context.settings, context.storage, context.decoding
    rules = UnitRules.of(settings)

    def check(
        session: LockedSession, where: str, to_fuse: Work, gone: Work = NOTHING, *, needs_gpu: bool = needs_gpu
    ) -> None:
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
        unfinished = [one.unit for one in planned if one.state != "loaded"]
        dropped: set[str] = set()
        if isinstance(work, Interval) and outdated(planned, storage, settings, work, replan):
            dropped = {unit.unit_id for unit in unfinished}
            hold_units(session, dropped)
        elif unfinished:
            to_fuse = (one.unit for one in planned if one.state not in ("fused", "loaded"))
            work_left = Work.of(to_fuse, longest_row(decoding))
            replaces = any(one.existing == "replace" for one in planned if one.state != "loaded")
            check(session, "planned by an earlier run, to fuse", work_left, needs_gpu=needs_gpu or replaces)
            return unfinished
        with session.transaction() as connection:
            replaced = replacements.replaced_units(connection, decoding.fusion_id, work, existing, dropped)
        pairs = find_pairs(session, dropped, replaced)
        if replaced and not any(len(part.rows) for part in pairs):
            replaced, pairs = [], find_pairs(session, dropped, [])
        if replaced:
            log.info("plan: continues an earlier run, and leaves out the pairs of its %d loaded units", len(replaced))
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
            _warn_of_left(left, most, work, existing)
        known = {part.path: part.rows_in_file for part in pairs}
        paired = waiting.paired_rows(storage, work, known) if isinstance(work, Interval) else 0
        # A replay selects at most ``limit`` rows. If it selected that many, further rows may match and would be left.
        exhausts_limit = isinstance(work, Replay) and total.rows == limit
        leaves_pairs = rows < total.rows or exhausts_limit or any(part.over_limit for part in pairs)
        with session.transaction() as connection:
            if isinstance(work, Interval) and dropped:
                drop_plan(connection, work, decoding.fusion_id, dropped)
            ledger.register_units(connection, units, work, dag_run_id, existing, leaves_pairs=leaves_pairs)
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


def _warn_of_left(left: int, most: int, work: Interval | Replay, existing: Existing) -> None:
    again = "Run again" if isinstance(work, Interval) else "Run this replay again (in Airflow: clear its run)"
    log.warning(
        "%d pairs are left for another run, because a run has at most %d units. %s%s when these units are loaded. To"
        " plan more pairs in one run, raise CAPSFUSION_UNIT_TOKENS%s",
        left,
        most,
        again,
        " with `existing: replace`" if existing == "replace" else "",
        "" if most == unit_files.MAX_UNITS else f", or AIRFLOW__CORE__MAX_MAP_LENGTH to {unit_files.MAX_UNITS}",
    )


def outdated(
    planned: list[PlannedUnit], storage: Storage, settings: Settings, interval: Interval, replan: bool = False
) -> bool:
    """Whether unfinished units of ``planned`` were planned with other rules than the current ones.

    Raises InputError if one of these units was started, unless ``replan`` is set.
    """
    rules = UnitRules.of(settings)
    unfinished = [one for one in planned if one.state != "loaded"]
    if not unfinished:
        return False
    # These units were all planned together, so they have the same rules.
    made_with = unit_files.common_rules(storage, (one.unit.unit_id for one in unfinished), rules)
    if made_with is None or made_with == rules:
        return False
    begun = [one for one in unfinished if one.begun]
    if begun and not replan:
        back = made_with.variables(rules)
        raise InputError(
            f"units of this interval are not finished ({len(unfinished)} units, {len(begun)} of them started), and were"
            f" planned with {made_with.against(rules)}. Finish all of them: {back} {interval.command}; or discard their"
            f" work and plan again: {interval.command} --replan (in Airflow: the Param replan)"
        )
    log.warning(
        "plan: %d units are dropped and planned again, because they were planned with %s",
        len(unfinished),
        made_with.against(rules),
    )
    return True
