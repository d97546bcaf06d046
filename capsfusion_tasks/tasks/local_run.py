"""Runs all stages in one process, without Airflow, for `capsfusion run` and `capsfusion replay`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from capsfusion_tasks.context import Context, open_context
from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed
from capsfusion_tasks.fusion import launcher
from capsfusion_tasks.fusion.torchrun_command import environment_defaults
from capsfusion_tasks.fusion.watchdog import Timeouts
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.lake.catalog import require_pyiceberg
from capsfusion_tasks.planning.estimate import UNLIMITED, Budget
from capsfusion_tasks.schemas import Existing, Replay, Shard, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.tasks import interval_tasks, replay, unit_tasks
from capsfusion_tasks.tasks.lake_tasks import sync_lake
from capsfusion_tasks.warehouse import quarantine

PULLS = 2  # shards that are pulled at the same time: one shard is decoded while another is downloaded or written


def run_pipeline(
    settings: Settings,
    interval: Interval,
    *,
    limit: int | None = None,
    existing: Existing = "skip",
    budget: Budget = UNLIMITED,
    accept_rejections: bool = False,
    relist: bool = False,
    replan: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fuse and load the shards that arrived in ``interval``. Returns the report.

    If a shard or a unit fails, the ledger and the report record the failure, and the other shards and units continue.
    ``may_pass`` in the report is true if all failures of this run are temporary, so that a retry may help.
    """
    errors: list[Exception] = []
    budget.refuse_without(settings.gpu_hour_price)  # check this first, because pulling may take hours
    if settings.lake_table is not None:
        require_pyiceberg()
    with open_context(settings) as context:
        shards = interval_tasks.discover(context, interval, relist=relist, replan=replan)
        say(f"discover: {len(shards)} shards arrived from {interval.start} to {interval.end}")
        with ThreadPoolExecutor(PULLS) as pulls:
            for line in pulls.map(lambda shard: _pull(context, shard, errors), shards):
                say(line)
        groups = interval_tasks.bucket_groups(context) if shards else []
        joined = [interval_tasks.pair(context, interval, group) for group in groups]
        say(f"pair: {sum(part['pairs'] for part in joined)} pairs")
        units = interval_tasks.plan(
            context,
            interval,
            limit=limit,
            existing=existing,
            budget=budget,
            on_estimate=lambda estimate: say(f"plan: {estimate.text}"),
            replan=replan,
        )
        say(f"plan: {len(units)} units, {sum(unit.rows for unit in units)} pairs to fuse")
        for unit in units:
            _run_unit(context, unit, existing, accept_rejections, say, errors)
        missed = _sync_lake(context, say, errors)
        mine = [unit.unit_id for unit in units]
        report = interval_tasks.report(context, interval, context.decoding.fusion_id, mine)
        report["failures"] += missed
        return report | {"may_pass": _may_pass(errors)}


def run_replay(
    settings: Settings,
    selection: Replay,
    *,
    existing: Existing = "skip",
    budget: Budget = UNLIMITED,
    accept_rejections: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fuse rejected captions again and load the results. Returns a report like that of ``run_pipeline``.

    Raises NotReadyError if another process runs the same replay.
    """
    errors: list[Exception] = []
    budget.refuse_without(settings.gpu_hour_price)
    if settings.lake_table is not None:
        require_pyiceberg()
    with open_context(settings) as context, quarantine.sole_run(context.warehouse.engine, selection.name):
        units = replay.plan(
            context,
            selection,
            existing=existing,
            budget=budget,
            on_estimate=lambda estimate: say(f"plan: {estimate.text}"),
        )
        say(f"plan: {len(units)} units, {sum(unit.rows for unit in units)} rejected captions to replay")
        for unit in units:
            _run_unit(context, unit, existing, accept_rejections, say, errors)
        missed = _sync_lake(context, say, errors)
        mine = [unit.unit_id for unit in units]
        report = replay.report(context, selection, context.decoding.fusion_id, mine)
        report["failures"] += missed
        return report | {"may_pass": _may_pass(errors)}


def _may_pass(errors: list[Exception]) -> bool:
    return bool(errors) and all(isinstance(error, NotReadyError) for error in errors)


def _sync_lake(context: Context, say: Callable[[str], None], errors: list[Exception]) -> list[str]:
    """Write the loaded units to the Iceberg table, if one is configured. Returns the errors."""
    if context.settings.lake_table is None:
        return []
    try:
        sync_lake(context, say=say)
    except (InputError, NotReadyError) as error:
        errors.append(error)
        say(f"lake: {error}")
        return [f"lake: {error}"]
    return []


def _pull(context: Context, shard: Shard, errors: list[Exception]) -> str:
    try:
        pulled = interval_tasks.pull(context, shard)
    except (InputError, NotReadyError) as error:
        errors.append(error)
        return f"pull: {shard.label} failed: {error}"
    return f"pull: {shard.label}: {pulled['rows']} rows, dropped {_counts(pulled['dropped'])}"


def _run_unit(
    context: Context,
    unit: Unit,
    existing: Existing,
    accept_rejections: bool,
    say: Callable[[str], None],
    errors: list[Exception],
) -> None:
    settings = context.settings
    with unit_tasks.at_work(context, unit):
        try:
            unit_tasks.fuse_started(context, unit)
            if not unit_tasks.is_fused(context, unit):
                argv, timeouts = unit_tasks.fuse_argv(context, unit), Timeouts.of(settings)
                launcher.run(argv, on_line=say, timeouts=timeouts, defaults=environment_defaults(settings))
            unit_tasks.fuse_finished(context, unit)
        except (InputError, NotReadyError, TorchrunFailed) as error:
            errors.append(error)
            unit_tasks.fuse_failed(context, unit, str(error))
            say(f"fuse: {unit.label} failed: {error}")
            return
    try:
        verdicts = unit_tasks.validate(context, unit, accept_rejections=accept_rejections)
        unit_tasks.load(context, unit, existing=existing)
    except (InputError, NotReadyError) as error:
        errors.append(error)
        unit_tasks.fuse_failed(context, unit, str(error))  # so that the report lists the error, and the command fails
        say(f"validate and load: {unit.label} failed: {error}")
        return
    reasons = f" ({_counts(verdicts['reasons'])})" if verdicts["reasons"] else ""
    say(f"load: {unit.label}: {verdicts['accepted']} accepted, {verdicts['rejected']} rejected{reasons}")


def _counts(counts: Mapping[str, int]) -> str:
    """Counts as text: ``3 null_url, 1 unsafe``."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
