"""Which shards belong to an interval: those that arrived in it, frozen when they are first found."""

from __future__ import annotations

import hashlib

from capsfusion_tasks import layout
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Interval, Settings
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.source import Source
from capsfusion_tasks.storage import Storage


def open_source(uri: str) -> Source:
    """The source that ``uri`` means; today a folder."""
    scheme, separator, path = uri.partition("://")
    if separator and scheme != "file":
        raise InputError(f"cannot read shards from {uri}: sources are folders; copy the shards into one")
    return LocalSource(path if separator else uri)


def sources(settings: Settings) -> dict[Side, Source]:
    """Both sides' sources. Raises InputError naming what is not set."""
    uris: dict[Side, str | None] = {"laion_2b": settings.laion2b, "laion_coco": settings.laion_coco}
    if missing := [side for side, uri in uris.items() if not uri]:
        raise InputError(f"no source for {' and '.join(missing)}: set CAPSFUSION_LAION2B and CAPSFUSION_LAION_COCO")
    return {side: open_source(uri) for side, uri in uris.items() if uri}


def discover(sources: dict[Side, Source], interval: Interval, storage: Storage) -> list[Shard]:
    """The interval's shards, by side and path.

    The list is frozen at the first call that finds any, so that a rerun or a backfill does the same work. An empty list
    is not: shards may be copied in later with their old times.
    """
    frozen = layout.discovered(interval)
    if storage.exists(frozen):
        return [Shard.model_validate(shard) for shard in storage.read_json(frozen)]
    shards = [
        Shard(
            shard_id=shard_id(source.uri, file.path, file.etag),
            side=side,
            source=source.uri,
            path=file.path,
            etag=file.etag,
            size_bytes=file.size_bytes,
            arrived_at=file.arrived_at,
        )
        for side, source in sources.items()
        for file in source.files()
        if interval.start <= file.arrived_at < interval.end
    ]
    if shards:
        storage.write_json(frozen, [shard.model_dump(mode="json") for shard in shards])
    return shards


def shard_id(source: str, path: str, etag: str) -> str:
    """A shard's name in file names and in the warehouse: a digest of what tells shards apart."""
    return hashlib.blake2b(f"{source}\0{path}\0{etag}".encode(), digest_size=8).hexdigest()
