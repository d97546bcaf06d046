"""Wraps task functions so that they take settings, not a context. Each call opens its own context, as in Airflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from capsfusion_tasks.context import open_context
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning import forecast as _forecast
from capsfusion_tasks.schemas import Replay, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.tasks import interval_tasks as _interval_tasks
from capsfusion_tasks.tasks import replay as _replay
from capsfusion_tasks.tasks import unit_tasks as _unit_tasks
from capsfusion_tasks.upkeep import check as _check
from capsfusion_tasks.upkeep import garbage as _garbage
from capsfusion_tasks.upkeep.check import Result


class Opened:
    """A module's functions, wrapped so that they take settings instead of a context."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._module, name)

        def call(settings: Settings, *arguments: Any, **options: Any) -> Any:
            with open_context(settings) as context:
                return function(context, *arguments, **options)

        return call


class IntervalTasks(Opened):
    """The functions of interval_tasks. Report, check and export get the fusion_id of the settings."""

    def report(self, settings: Settings, interval: Interval, unit_ids: list[str] | None = None) -> dict[str, Any]:
        with open_context(settings) as context:
            return _interval_tasks.report(context, interval, context.decoding.fusion_id, unit_ids)

    def check(self, settings: Settings, interval: Interval) -> dict[str, Any]:
        with open_context(settings) as context:
            return _interval_tasks.check(context, interval, context.decoding.fusion_id)

    def export(self, settings: Settings, interval: Interval, export_to: str) -> dict[str, Any]:
        with open_context(settings) as context:
            return _interval_tasks.export(context, interval, context.decoding.fusion_id, export_to)


class UnitTasks(Opened):
    @contextmanager
    def at_work(self, settings: Settings, unit: Unit) -> Iterator[None]:
        with open_context(settings) as context, _unit_tasks.at_work(context, unit):
            yield


class ReplayTasks(Opened):
    def report(self, settings: Settings, selection: Replay, unit_ids: list[str] | None = None) -> dict[str, Any]:
        with open_context(settings) as context:
            return _replay.report(context, selection, context.decoding.fusion_id, unit_ids)


def check(settings: Settings, *arguments: Any, **options: Any) -> Result:
    with open_context(settings) as context:
        return _check.check(context, *arguments, **options)


def collect(settings: Settings, **options: Any) -> _garbage.Collection:
    with open_context(settings) as context:
        return _garbage.collect(context, **options)


interval_tasks = IntervalTasks(_interval_tasks)
unit_tasks = UnitTasks(_unit_tasks)
replay = ReplayTasks(_replay)
forecast = Opened(_forecast)
