"""Finds shards that should be in the list of shards of an interval, but are in no such list.

A shard is late if it appeared after the list of its interval had been made. Other shards arrived in a gap between two
intervals, for which there was no run, for example because the DAG was paused or Airflow was stopped.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import partial

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Side
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.listing import all_shards
from capsfusion_tasks.shards.shard_list import Origin
from capsfusion_tasks.shards.sources import SideSource, configured_sources, side_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding
from capsfusion_tasks.upkeep.listing import READERS

_SETTING: dict[Side, str] = {"laion_2b": "laion2b", "laion_coco": "laion_coco"}


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Findings about late shards, and about shards that arrived in a gap between listed intervals."""
    seen = {shard.shard_id for shards in evidence.lists.values() for shard in shards} | evidence.others
    missed: dict[Interval, Counter[Side]] = defaultdict(Counter)
    for side, place, intervals in _places(evidence):
        for shard in all_shards(side, place):
            if shard.shard_id in seen:
                continue
            own = [interval for interval in intervals if interval.start <= shard.arrived_at < interval.end]
            lists = {interval: evidence.listing.get(layout.discovered(interval)) for interval in own}
            if interval := next((each for each, listed in lists.items() if listed and evidence.old(listed)), None):
                path = layout.discovered(interval)
                yield Finding(
                    "shard-late",
                    shard.label,
                    f"the shard is dated {shard.arrived_at:%Y-%m-%d %H:%M:%S}, but appeared after {path} was written",
                    f"wait for the next run, which includes the shard, or run {interval.command} --relist",
                )
            elif not own and (gap := _gap(shard.arrived_at, intervals)):
                missed[gap][side] += 1
    for gap in sorted(missed, key=lambda gap: gap.start):
        counts = ", ".join(f"{side}: {count}" for side, count in sorted(missed[gap].items()))
        yield Finding(
            "interval-missed",
            f"{gap.start:%Y-%m-%d %H:%M} to {gap.end:%Y-%m-%d %H:%M}",
            f"shards arrived in this time ({counts}), but no run has listed them",
            f"start a backfill of these days in Airflow, with the option Missing Runs, or run {gap.command}",
        )


def _gap(moment: datetime, intervals: Iterable[Interval]) -> Interval | None:
    """The gap between ``intervals`` that contains ``moment``. None if ``moment`` is before or after all intervals."""
    before = max((interval.end for interval in intervals if interval.end <= moment), default=None)
    after = min((interval.start for interval in intervals if interval.start > moment), default=None)
    return Interval(start=before, end=after) if before and after else None


def _places(evidence: Evidence) -> Iterator[tuple[Side, SideSource, list[Interval]]]:
    """The sources to list, each with its side and with the intervals whose shards it should have.

    If the settings name no source for a side, these are the sources from which the side's lists were made, instead of
    the default source: `capsfusion run` may have got other sources as options.
    """
    is_set = {side for side, name in _SETTING.items() if name in evidence.settings.model_fields_set}
    for side, place in configured_sources(evidence.settings).items():
        if side in is_set:
            yield side, place, list(evidence.lists)
    origins: dict[tuple[Side, Origin], list[Interval]] = defaultdict(list)
    lists = read_ahead(partial(shard_list.read, storage=evidence.storage), evidence.lists, READERS)
    for interval, listed in zip(evidence.lists, lists, strict=True):
        for side, origin in ((listed and listed.sources) or {}).items():
            if side not in is_set:
                origins[side, origin].append(interval)
    for (side, origin), intervals in origins.items():
        yield side, side_source(origin, evidence.settings), intervals
