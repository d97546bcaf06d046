"""Which shards belong to an interval: those that arrived in it, frozen when they are found after its end."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Interval, Patterns, Settings
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.patterns import path_filter
from capsfusion_tasks.shards.shard_list import Origin, ShardList, told
from capsfusion_tasks.shards.source import Source, SourceFile
from capsfusion_tasks.staging.storage import Storage, refuse_credentials

log = logging.getLogger(__name__)

# Control characters, line breaks, bytes that are no UTF-8: no log, no database and no URL takes all of them.
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_LONGEST_NAME = 2000  # bytes of source, path and etag together: they are a key, and PostgreSQL takes 2,704 in one


@dataclass(frozen=True)
class SideSource:
    """Where a side's shards arrive, and which of the files there are shards: those ``wanted``, by ``patterns``."""

    source: Source
    wanted: Callable[[str], bool]
    patterns: dict[str, Patterns] = field(default_factory=dict)


def open_source(uri: str, settings: Settings) -> Source:
    """The source that ``uri`` means. Raises InputError for a URI of another kind."""
    refuse_credentials(uri)  # it is stored with each shard
    scheme, separator, path = uri.partition("://")
    # Each kind is imported where it is used: boto3 and huggingface_hub take longer to load than the whole command line.
    if not separator or scheme == "file":
        return LocalSource(path if separator else uri)
    if scheme == "s3":
        from capsfusion_tasks.shards.s3 import S3Source

        return S3Source(uri)
    if scheme == "hf":
        from capsfusion_tasks.shards.huggingface import HubSource

        return HubSource(uri, settings.scratch_folder)
    if scheme in ("http", "https"):
        from capsfusion_tasks.shards.http import HttpSource

        return HttpSource(uri, settings.scratch_folder)
    raise InputError(
        f"cannot read shards from {uri}: give a folder, s3://bucket/prefix, hf://datasets/owner/name, "
        "or the https:// address of a list of files"
    )


def source_of(shard: Shard, settings: Settings) -> Source:
    """The source that the shard was found in: as it is set now, or else as the shard has it.

    The two differ where the setting holds what is not stored, as the query of a signed address.
    """
    current = open_source(settings.laion2b if shard.side == "laion_2b" else settings.laion_coco, settings)
    return current if current.uri == shard.source else open_source(shard.source, settings)


def sources(settings: Settings) -> dict[Side, SideSource]:
    """Each side's source, with the patterns that are set for it; no LAION-2B where LAION-COCO is paired with itself."""
    coco = _side(settings.laion_coco, settings.laion_coco_include, settings.laion_coco_exclude, settings)
    if settings.self_paired:
        return {"laion_coco": coco}
    raw = _side(settings.laion2b, settings.laion2b_include, settings.laion2b_exclude, settings)
    return {"laion_2b": raw, "laion_coco": coco}


def _side(uri: str, include: Patterns, exclude: Patterns, settings: Settings) -> SideSource:
    patterns = {"include": include, "exclude": exclude}
    return SideSource(open_source(uri, settings), path_filter(include, exclude), patterns)


def source_bytes(sources: Mapping[Side, SideSource]) -> int:
    """The bytes of all shards that there are, whenever they arrived."""
    return sum(file.size_bytes for place in sources.values() for file in place.source.files(place.wanted))


def discover(
    sources: Mapping[Side, SideSource],
    interval: Interval,
    storage: Storage,
    *,
    relist: bool = False,
    units: int = 0,
    remove: Callable[[list[Shard]], None] = lambda _: None,
    claim: Callable[[list[Shard]], set[str]] = lambda _: set(),
) -> list[Shard]:
    """The interval's shards, by side and path, for the stages after this one to find with ``discovered``.

    The list is frozen at the first call after the interval's end that finds any, so that a rerun or a backfill does the
    same work; ``relist`` adds what has come since. Before its end, a call adds what has arrived since the last. Not
    frozen are an empty list, and a side whose source had no shard at all: shards may be copied in later with their old
    times.

    A shard whose own interval's list was frozen before it came is late. The next interval that is listed takes it:
    ``claim`` gets the late shards that were found, and returns the ids of those that this interval has. What is added
    to a frozen list is late too, and is claimed, so that no other interval has taken it.

    A list of other sources or patterns is made anew, and ``remove`` gets the shards that leave it, as long as the
    interval has no ``units``, planned or loaded. Raises InputError where it has some, unless ``relist`` adds the shards
    of these sources.
    """
    now = {side: Origin(uri=place.source.uri, **place.patterns) for side, place in sources.items()}
    listed = shard_list.read(interval, storage) or ShardList(frozen=False, shards=[], sources=now)
    known, frozen, leaving = listed.shards, listed.is_frozen and not relist, list[Shard]()
    if known and (before := listed.made_from(now)) != now and not relist:
        _require_no_units(interval, before, now, units)
        known, frozen, leaving = [], False, known
    over = datetime.now(UTC) >= interval.end  # asked before the listing: what arrives during it may be missing from it
    to_list = {side: place for side, place in sources.items() if not frozen or side in listed.empty}
    there = {side: [*all_shards(side, place)] for side, place in to_list.items()}
    arrived = [shard for shards in there.values() for shard in shards]
    own = [shard for shard in arrived if interval.start <= shard.arrived_at < interval.end]
    if listed.is_frozen:
        known_ids = {shard.shard_id for shard in known}
        late, own = [shard for shard in own if shard.shard_id not in known_ids], []
    else:
        late = _late(arrived, interval, storage, now)
    claimed = claim(late)
    found = {shard.shard_id: shard for shard in [*own, *(shard for shard in late if shard.shard_id in claimed)]}
    found |= {shard.shard_id: shard for shard in known}  # as they were: their rows may be pulled and paired
    shards = sorted(found.values(), key=lambda shard: (shard.side, shard.path, shard.arrived_at))
    empty = [side for side in there if not there[side]]
    for side in empty:
        log.warning("discover: %s has no shard at all in %s: check its source and patterns", side, now[side])
    if gone := [shard for shard in leaving if shard.shard_id not in found]:
        remove(gone)  # before the list forgets them: every join reads what lies in the buckets
    made = ShardList(frozen=frozen or over, shards=shards, sources=now, empty=tuple(empty))
    if made != listed and (shards or leaving):
        shard_list.write(interval, storage, made)
    return shards


def _late(arrived: Iterable[Shard], interval: Interval, storage: Storage, now: dict[Side, Origin]) -> list[Shard]:
    """The shards of ``arrived`` that no list has, though the interval in which they arrived has a frozen one.

    Only lists of the same source and patterns count: what another source has was not there to be listed.
    """
    frozen: dict[Side, list[Interval]] = {side: [] for side in now}
    listed_ids: set[str] = set()
    for other in shard_list.intervals(storage):
        if other == interval or (listed := shard_list.read(other, storage)) is None:
            continue
        listed_ids |= {shard.shard_id for shard in listed.shards}
        for side, origin in listed.made_from(now).items():
            if listed.is_frozen and origin == now.get(side) and side not in listed.empty:
                frozen[side].append(other)
    return [
        shard
        for shard in arrived
        if shard.shard_id not in listed_ids
        and not interval.start <= shard.arrived_at < interval.end
        and any(other.start <= shard.arrived_at < other.end for other in frozen[shard.side])
    ]


def _require_no_units(interval: Interval, before: dict[Side, Origin], now: dict[Side, Origin], units: int) -> None:
    then = told(before, now)
    if units:
        raise InputError(
            f"the shards of this interval were listed from {then}, and {units} units of them are planned or loaded. Set"
            f" these sources, set CAPSFUSION_STAGING to an empty folder, or add those of now: {interval.command}"
            " --relist (in Airflow: the Param relist)"
        )
    log.warning("discover: listing the interval again: its list was made from %s", then)


def discovered(interval: Interval, storage: Storage) -> list[Shard]:
    """The interval's shards as ``discover`` last listed them; none if it found none."""
    listed = shard_list.read(interval, storage)
    return listed.shards if listed else []


def all_shards(side: Side, place: SideSource) -> Iterator[Shard]:
    """What the source has, whenever it arrived."""
    # Always the whole listing: a watermark by name or time would skip what sorts before it or is copied in later.
    return (
        Shard(
            shard_id=shard_id(place.source.uri, file.path, file.etag),
            side=side,
            source=place.source.uri,
            path=file.path,
            etag=file.etag,
            size_bytes=file.size_bytes,
            arrived_at=file.arrived_at,
            revision=file.revision,
        )
        for file in _nameable(place)
    )


def _nameable(place: SideSource) -> Iterator[SourceFile]:
    """The files whose names can be kept. Another must not hold up those beside it, so it is passed over and told."""
    for file in place.source.files(place.wanted):
        name = f"{place.source.uri}{file.path}{file.etag}"
        if _NO_NAME.search(name):
            problem = "control characters, or bytes that are no UTF-8"
        elif len(name.encode()) > _LONGEST_NAME:
            problem = f"more than {_LONGEST_NAME} bytes with its source and its etag"
        else:
            yield file
            continue
        log.warning("passed over, for its name has %s: %s; rename it", problem, printable(f"{file.path:.200}"))


def shard_id(source: str, path: str, etag: str) -> str:
    """A shard's name in file names and in the warehouse: a digest of what tells shards apart."""
    return hashlib.blake2b(f"{source}\0{path}\0{etag}".encode(), digest_size=8).hexdigest()
