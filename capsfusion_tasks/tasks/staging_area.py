"""Chooses the number of hash buckets of a new staging area, for runs and replays. The number then never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capsfusion_tasks.context import Context
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.shards.listing import source_bytes
from capsfusion_tasks.shards.sources import configured_sources
from capsfusion_tasks.staging import layout
from capsfusion_tasks.warehouse import ledger


def fix_buckets(context: Context, listed: Mapping[Side, Sequence[Shard]] | None = None) -> None:
    """Choose the number of buckets if the staging area has no number yet.

    ``listed``: all shards of each source that the caller has listed. This function lists the other sources, and only
    then takes the lock, because listing may take minutes.
    """
    settings, storage = context.settings, context.storage
    size = 0
    if settings.buckets == "auto" and not storage.exists(layout.BUCKETS_CONFIG):
        known = listed or {}
        others = {side: place for side, place in configured_sources(settings).items() if side not in known}
        size = sum(shard.size_bytes for shards in known.values() for shard in shards) + source_bytes(others)
    with ledger.staging_lock(context.warehouse.engine, storage.root):
        bucket_count(storage, settings, lambda: size)
