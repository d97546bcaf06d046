"""Which shards belong to an interval: those that arrived in it, frozen when they are found after its end."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Interval, Patterns, Settings
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.failures import system_errors
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.passed_over import PassedOver
from capsfusion_tasks.shards.patterns import is_hidden, path_filter, path_matcher
from capsfusion_tasks.shards.shard_list import Origin, ShardList, told
from capsfusion_tasks.shards.source import Source, SourceFile, Unreadable
from capsfusion_tasks.staging.storage import Storage, refuse_credentials

log = logging.getLogger(__name__)

# Control characters, line breaks, bytes that are no UTF-8: logs, databases and URLs do not take all of them.
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_LONGEST_NAME = 2000  # bytes of source, path and etag together: they are a key, and PostgreSQL takes 2,704 in one
_LFS_POINTER, _LONGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024


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

        return S3Source(uri, requester_pays=settings.s3_requester_pays)
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


@contextmanager
def opened(shard: Shard, settings: Settings) -> Iterator[pa.NativeFile]:
    """The shard's bytes, seekable, wherever it is.

    Raises InputError if it cannot be read, is gone or has changed, NotReadyError if the source does not answer.
    """
    if shard.problem:
        raise InputError(shard.problem)
    where = printable(f"{shard.source}/{shard.path}")
    with ExitStack() as stack:
        with system_errors(f"cannot read {where}"):
            stream = stack.enter_context(source_of(shard, settings).open(shard))
            if shard.size_bytes < _LONGEST_POINTER and stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise InputError(
                    f"{where} is a Git LFS pointer, not the file: run `git lfs pull` in its repository. The file then"
                    " counts as a new shard"
                )
            stream.seek(0)
        yield stream


def sources(settings: Settings) -> dict[Side, SideSource]:
    """Each side's source, with the patterns that are set for it; no LAION-2B where LAION-COCO is paired with itself."""
    coco = Origin(uri=settings.laion_coco, include=settings.laion_coco_include, exclude=settings.laion_coco_exclude)
    if settings.self_paired:
        return {"laion_coco": side_source(coco, settings)}
    raw = Origin(uri=settings.laion2b, include=settings.laion2b_include, exclude=settings.laion2b_exclude)
    return {"laion_2b": side_source(raw, settings), "laion_coco": side_source(coco, settings)}


def side_source(origin: Origin, settings: Settings) -> SideSource:
    patterns = {"include": origin.include, "exclude": origin.exclude}
    return SideSource(open_source(origin.uri, settings), path_filter(origin.include, origin.exclude), patterns)


def source_bytes(sources: Mapping[Side, SideSource]) -> int:
    """The bytes of all shards in ``sources``, whenever they arrived."""
    listed = (file for place in sources.values() for file in _files(place, place.wanted))
    return sum(file.size_bytes for file in listed if isinstance(file, SourceFile))


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
    frozen are an empty list, a side whose source had no shard at all (shards may be copied in later with their old
    times), and a side with files that could not be read: these are in the list as shards with a ``problem``.

    A shard whose own interval's list was frozen before it came is late. The next interval that is listed takes it:
    ``claim`` gets the late shards that were found, and returns the ids of those that this interval has. What is added
    to a frozen list is late too, and is claimed, so that no other interval has taken it.

    A list of other sources or patterns is made anew, and ``remove`` gets the shards that leave it, as long as the
    interval has no ``units``, planned or loaded. Raises InputError where it has some, unless ``relist`` adds the shards
    of these sources.
    """
    now = {side: Origin(uri=place.source.uri, **place.patterns) for side, place in sources.items()}
    listed = shard_list.read(interval, storage) or ShardList(frozen=False, shards=[], sources=now)
    known, frozen, leaving = listed.readable, listed.is_frozen and not relist, listed.unreadable
    if known and (before := listed.made_from(now)) != now and not relist:
        _require_no_units(interval, before, now, units)
        known, frozen, leaving = [], False, listed.shards
    over = datetime.now(UTC) >= interval.end  # asked before the listing: what arrives during it may be missing from it
    to_list = {side: place for side, place in sources.items() if not frozen or side in listed.incomplete}
    there = {side: _listed(side, place, interval) for side, place in to_list.items()}
    arrived = [shard for shards in there.values() for shard in shards]
    own = [shard for shard in arrived if interval.start <= shard.arrived_at < interval.end]
    if listed.is_frozen:
        known_ids = {shard.shard_id for shard in known}
        late = [shard for shard in own if shard.shard_id not in known_ids and not shard.problem]
        own = [shard for shard in own if shard.problem]
    else:
        late = _late(arrived, interval, storage, now)
    claimed = claim(late)
    found = {shard.shard_id: shard for shard in [*own, *(shard for shard in late if shard.shard_id in claimed)]}
    found |= {shard.shard_id: shard for shard in known}  # as they were: their rows may be pulled and paired
    shards = sorted(found.values(), key=lambda shard: (shard.side, shard.path, shard.arrived_at))
    if gone := [shard for shard in leaving if shard.shard_id not in found]:
        remove(gone)  # before the list forgets them: every join reads what lies in the buckets
    made = ShardList(
        frozen=frozen or over, shards=shards, sources=now, empty=tuple(side for side in there if not there[side])
    )
    if made != listed and (shards or listed.shards):
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
        if not shard.problem
        and shard.shard_id not in listed_ids
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
    """The readable shards of the source, whenever they arrived."""
    # Always the whole listing: a watermark by name or time would skip what sorts before it or is copied in later.
    for file in _nameable(place, place.wanted):
        if isinstance(file, SourceFile):
            yield _shard(side, place, file)


def _listed(side: Side, place: SideSource, interval: Interval) -> list[Shard]:
    """All shards of the source. Unreadable ones of unknown time count as arrived in ``interval``.

    Logs why there are none, of the source or of the interval.
    """
    passed_over = PassedOver(place.wanted)
    shards = [
        _shard(side, place, file) if isinstance(file, SourceFile) else _unreadable(side, place, file, interval)
        for file in _nameable(place, passed_over.wanted)
    ]
    if not shards:
        log.warning("discover: %s has no shard at all in %s: %s", side, place.source.uri, passed_over)
        return []
    times = [shard.arrived_at for shard in shards]
    if not any(interval.start <= time < interval.end for time in times):
        first, last = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (min(times), max(times)))
        log.info("discover: %s has %d shards outside the interval, from %s to %s", side, len(shards), first, last)
    return shards


def _shard(side: Side, place: SideSource, file: SourceFile) -> Shard:
    return Shard(
        shard_id=shard_id(place.source.uri, file.path, file.etag),
        side=side,
        source=place.source.uri,
        path=file.path,
        etag=file.etag,
        size_bytes=file.size_bytes,
        arrived_at=file.arrived_at,
        revision=file.revision,
    )


def _unreadable(side: Side, place: SideSource, file: Unreadable, interval: Interval) -> Shard:
    return Shard(
        shard_id=shard_id(place.source.uri, file.path, ""),
        side=side,
        source=place.source.uri,
        path=file.path,
        etag="",
        size_bytes=0,
        arrived_at=file.arrived_at or interval.start,
        problem=file.reason,
    )


def _files(place: SideSource, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
    """The source's files, without unreadable ones that are hidden or excluded."""
    excluded = path_matcher(place.patterns.get("exclude", ()))
    with system_errors(f"cannot list {place.source.uri}"):
        for file in place.source.files(wanted):
            if isinstance(file, SourceFile) or not (is_hidden(file.path) or excluded(file.path)):
                yield file


def _nameable(place: SideSource, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
    """The source's files. Skips names that cannot be stored, and logs them."""
    for file in _files(place, wanted):
        name = f"{place.source.uri}{file.path}{file.etag if isinstance(file, SourceFile) else ''}"
        if _NO_NAME.search(name):
            problem = "control characters, or bytes that are no UTF-8"
        elif len(name.encode()) > _LONGEST_NAME:
            problem = f"more than {_LONGEST_NAME} bytes with its source and its etag"
        else:
            yield file
            continue
        log.warning("skipped, its name has %s: %s; rename it", problem, printable(f"{file.path:.200}"))


def shard_id(source: str, path: str, etag: str) -> str:
    """A shard's name in file names and in the warehouse: a digest of what tells shards apart."""
    return hashlib.blake2b(f"{source}\0{path}\0{etag}".encode(), digest_size=8).hexdigest()
