"""All stages in one process, without Airflow: what `capsfusion run` and `capsfusion replay` do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import launcher
from capsfusion_tasks.fusion.stall import Patience
from capsfusion_tasks.planning.estimate import UNLIMITED, Budget
from capsfusion_tasks.schemas import Existing, Replay, Shard, Unit
from capsfusion_tasks.settings import Interval, Settings
from capsfusion_tasks.tasks import interval_tasks, replay, unit_tasks
from capsfusion_tasks.warehouse import quarantine
from capsfusion_tasks.warehouse.connection import open_warehouse

PULLS = 2  # shards that are pulled at the same time: one is decoded while the other is fetched or written


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
    """Fuse and load what arrived in ``interval``; returns the report.

    A shard or a unit that fails is noted in the ledger and in the report, and the others go on.
    """
    with open_warehouse(settings):  # the embedded server then runs throughout, not once for each stage
        shards = interval_tasks.discover(settings, interval, relist=relist, replan=replan)
        say(f"discover: {len(shards)} shards arrived from {interval.start} to {interval.end}")
        with ThreadPoolExecutor(PULLS) as pulls:
            for line in pulls.map(lambda shard: _pull(settings, shard), shards):
                say(line)
        groups = interval_tasks.bucket_groups(settings) if shards else []
        say(f"pair: {sum(interval_tasks.pair(settings, interval, group)['pairs'] for group in groups)} pairs")
        units = interval_tasks.plan(
            settings,
            interval,
            limit=limit,
            existing=existing,
            budget=budget,
            on_estimate=lambda estimate: say(f"plan: {estimate.text}"),
            replan=replan,
        )
        say(f"plan: {len(units)} units, {sum(unit.rows for unit in units)} pairs to fuse")
        for unit in units:
            _run_unit(settings, unit, existing, accept_rejections, say)
        return interval_tasks.report(settings, interval)


def run_replay(
    settings: Settings,
    selection: Replay,
    *,
    existing: Existing = "skip",
    budget: Budget = UNLIMITED,
    accept_rejections: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fuse rejected captions again and load them; returns the report. Raises NotReadyError where another process does.

    A unit that fails is noted in the ledger and in the report, and the others go on.
    """
    with open_warehouse(settings) as warehouse, quarantine.sole_run(warehouse.engine, selection.name):
        units = replay.plan(
            settings,
            selection,
            existing=existing,
            budget=budget,
            on_estimate=lambda estimate: say(f"plan: {estimate.text}"),
        )
        say(f"plan: {len(units)} units, {sum(unit.rows for unit in units)} rejected captions to replay")
        for unit in units:
            _run_unit(settings, unit, existing, accept_rejections, say)
        return replay.report(settings, selection)


def _pull(settings: Settings, shard: Shard) -> str:
    try:
        pulled = interval_tasks.pull(settings, shard)
    except (InputError, NotReadyError) as error:
        return f"pull: {shard.label} failed: {error}"
    return f"pull: {shard.label}: {pulled['rows']} rows, dropped {pulled['dropped'] or 'none'}"


def _run_unit(
    settings: Settings, unit: Unit, existing: Existing, accept_rejections: bool, say: Callable[[str], None]
) -> None:
    with unit_tasks.at_work(settings, unit):
        unit_tasks.fuse_started(settings, unit)
        try:
            if not unit_tasks.is_fused(settings, unit):
                argv, patience = unit_tasks.fuse_argv(settings, unit), Patience.of(settings)
                launcher.run(argv, on_line=say, patience=patience, defaults=launcher.environment_defaults(settings))
            unit_tasks.fuse_finished(settings, unit)
        except (InputError, NotReadyError, launcher.TorchrunFailed) as error:
            unit_tasks.fuse_failed(settings, unit, str(error))
            say(f"fuse: {unit.label} failed: {error}")
            return
    try:
        verdicts = unit_tasks.validate(settings, unit, accept_rejections=accept_rejections)
        unit_tasks.load(settings, unit, existing=existing)
    except InputError as error:
        say(f"validate and load: {unit.label} failed: {error}")
        return
    say(f"load: {unit.label}: {verdicts['accepted']} accepted, {verdicts['rejected']} rejected {verdicts['reasons']}")
