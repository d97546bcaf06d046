"""Finds late shards: their date is in an interval, but they appeared after the interval's list had been made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Side
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.listing import all_shards
from capsfusion_tasks.shards.shard_list import Origin
from capsfusion_tasks.shards.sources import SideSource, configured_sources, side_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding

_SETTING: dict[Side, str] = {"laion_2b": "laion2b", "laion_coco": "laion_coco"}


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Shards that are in no list, although a list for their interval exists."""
    seen = {shard.shard_id for shards in evidence.lists.values() for shard in shards} | evidence.others
    for side, place, intervals in _places(evidence):
        for shard in all_shards(side, place):
            if shard.shard_id in seen:
                continue
            for interval in intervals:
                path = layout.discovered(interval)
                listed = evidence.listing.get(path)
                if interval.start <= shard.arrived_at < interval.end and listed and evidence.old(listed):
                    yield Finding(
                        "shard-late",
                        shard.label,
                        f"its date is {shard.arrived_at:%Y-%m-%d %H:%M:%S}, but it appeared after {path} was written",
                        f"wait for the next run, which takes the shard, or run {interval.command} --relist",
                    )
                    break


def _places(evidence: Evidence) -> Iterator[tuple[Side, SideSource, list[Interval]]]:
    """The sources to list, each with its side and its intervals.

    A side that has no source in the settings gets the sources from which its lists were made, not the default source,
    because `capsfusion run` may have got these sources as options.
    """
    is_set = {side for side, name in _SETTING.items() if name in evidence.settings.model_fields_set}
    for side, place in configured_sources(evidence.settings).items():
        if side in is_set:
            yield side, place, list(evidence.lists)
    origins: dict[tuple[Side, Origin], list[Interval]] = defaultdict(list)
    for interval in evidence.lists:
        listed = shard_list.read(interval, evidence.storage)
        for side, origin in ((listed and listed.sources) or {}).items():
            if side not in is_set:
                origins[side, origin].append(interval)
    for (side, origin), intervals in origins.items():
        yield side, side_source(origin, evidence.settings), intervals
