"""Sources ↔ lists of shards: no file arrived in an interval after its list was made."""

from __future__ import annotations

from collections.abc import Iterator

from capsfusion_tasks.shards import discovery
from capsfusion_tasks.staging import layout
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import Finding


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Shards that no list has, though there is one of the interval in which they arrived."""
    seen = {shard.shard_id for shards in evidence.lists.values() for shard in shards} | evidence.others
    for side, place in discovery.sources(evidence.settings).items():
        for shard in discovery.all_shards(side, place):
            if shard.shard_id in seen:
                continue
            for interval in evidence.lists:
                path = layout.discovered(interval)
                listed = evidence.listing.get(path)
                if interval.start <= shard.arrived_at < interval.end and listed and evidence.old(listed):
                    yield Finding(
                        "shard-late",
                        shard.label,
                        f"it has the time {shard.arrived_at:%Y-%m-%d %H:%M:%S}, and came when {path} had been made",
                        f"wait for the next run, which takes it, or run {interval.command} --relist",
                    )
                    break
