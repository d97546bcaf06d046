"""Lists a source's files as shards, including files that cannot be read."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.locations import is_hidden
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards.failures import system_errors
from capsfusion_tasks.shards.passed_over import PassedOver
from capsfusion_tasks.shards.patterns import path_matcher
from capsfusion_tasks.shards.source import SourceFile, Unreadable
from capsfusion_tasks.shards.sources import SideSource, image_results_source

log = logging.getLogger(__name__)

# Control characters, line breaks and bytes that are not UTF-8. Files with such names are skipped, because some logs,
# databases and URLs cannot contain these characters.
_NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_DAYS_TOLD = 7  # number of days for which a message gives the number of shards
# Maximum bytes of source, path and etag together. They form one key in PostgreSQL, which limits a key to 2,704 bytes.
_LONGEST_NAME = 2000


def source_bytes(sources: Mapping[Side, SideSource]) -> int:
    """The total bytes of all shards in ``sources``, regardless of their arrival times."""
    listed = (file for place in sources.values() for file in _files(place, place.wanted))
    return sum(file.size_bytes for file in listed if isinstance(file, SourceFile))


def all_shards(side: Side, place: SideSource) -> Iterator[Shard]:
    """The readable shards of the source, regardless of their arrival times."""
    # List the whole source each time. A listing that starts at the last name or time would miss files that arrive later
    # with an earlier name or time.
    for file in _nameable(place, place.wanted):
        if isinstance(file, SourceFile):
            yield _shard(side, place, file)


def image_result_files(settings: Settings) -> list[Shard]:
    """All files of image results, including unreadable files. Files with an unknown arrival time count as arrived now.

    Empty if no source is configured. Raises InputError if the source has no file of image results, for example because
    its disk is not mounted. Without this error, pairs whose images are gone would be fused.
    """
    if (place := image_results_source(settings)) is None:
        return []
    now, passed_over = datetime.now(UTC), PassedOver(place.wanted)
    try:
        found = list(_nameable(place, passed_over.wanted))
    except InputError as error:
        raise InputError(f"CAPSFUSION_IMAGE_RESULTS: {error}") from error
    if not found:
        raise InputError(
            f"CAPSFUSION_IMAGE_RESULTS: no file of image results in {place.origin}: {passed_over}. Correct the"
            " variable, or unset it to fuse all pairs, including pairs whose images are gone"
        )
    return [
        _shard("image_results", place, file)
        if isinstance(file, SourceFile)
        else _unreadable("image_results", place, file, now)
        for file in found
    ]


def dates(side: Side, place: SideSource, shards: Iterable[Shard]) -> str:
    """Text with the number of the source's readable ``shards``, and the number that arrived on each day (UTC).

    Gives numbers only for the last ``_DAYS_TOLD`` days on which shards arrived.
    """
    times = (shard.arrived_at for shard in shards if not shard.problem)
    by_day = Counter(f"{time.astimezone(UTC):%Y-%m-%d}" for time in times)
    if not by_day:
        return f"{side}: no shard in {place.origin}"
    days = sorted(by_day)
    told = ", ".join(f"{by_day[day]} on {day}" for day in days[-_DAYS_TOLD:])
    earlier = _earlier(days[:-_DAYS_TOLD])
    return f"{side}: {by_day.total()} shards in {place.origin}, which arrived as follows: {earlier}{told}"


def _earlier(days: Sequence[str]) -> str:
    """Text about the earlier ``days``, for which ``dates`` gives no numbers. Empty if there are none."""
    if not days:
        return ""
    others = {0: "", 1: " and 1 other day"}.get(len(days) - 1, f" and {len(days) - 1} other days")
    return f"some on {days[0]}{others}, then "


def listed_shards(side: Side, place: SideSource, interval: Interval) -> list[Shard]:
    """All shards of the source. Unreadable shards with an unknown arrival time count as arrived in ``interval``.

    Logs the reason if the source has no readable shard. Logs the arrival times if no shard arrived in ``interval``.
    """
    passed_over = PassedOver(place.wanted)
    shards = [
        _shard(side, place, file) if isinstance(file, SourceFile) else _unreadable(side, place, file, interval.start)
        for file in _nameable(place, passed_over.wanted)
    ]
    times = [shard.arrived_at for shard in shards if not shard.problem]
    if not times and (passed_over.files or not shards):
        kind = "that can be read" if shards else "at all"
        log.warning("discover: %s has no shard %s in %s: %s", side, kind, place.origin, passed_over)
    elif times and not any(interval.start <= time < interval.end for time in times):
        first, last = (f"{time:%Y-%m-%d %H:%M:%S}" for time in (min(times), max(times)))
        log.warning(
            "discover: %s has %d shards, but none in the interval: they arrived from %s to %s",
            side,
            len(times),
            first,
            last,
        )
    return shards


def require_one_source(shards: Iterable[Shard]) -> None:
    """Raise InputError if a file is in the sources of two sides. The warehouse stores one side per shard id."""
    seen: dict[str, Shard] = {}
    for shard in shards:
        other = seen.setdefault(shard.shard_id, shard)
        if other.side != shard.side:
            raise InputError(
                f"{shard.source}/{shard.path} is in two sources, {other.side} and {shard.side}, but must be in"
                " one: name another source, or give each source its own files with CAPSFUSION_…_INCLUDE and _EXCLUDE."
                " To pair the captions of each LAION-COCO row with each other, set CAPSFUSION_LAION2B=none"
            )


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


def _unreadable(side: Side, place: SideSource, file: Unreadable, arrived_at: datetime) -> Shard:
    return Shard(
        shard_id=shard_id(place.source.uri, file.path, ""),
        side=side,
        source=place.source.uri,
        path=file.path,
        etag="",
        size_bytes=0,
        arrived_at=file.arrived_at or arrived_at,
        problem=file.reason,
    )


def _files(place: SideSource, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
    """The source's files. Leaves out unreadable files that are hidden or that an exclude pattern matches.

    Sources also yield unreadable folders and links that ``wanted`` rejects.
    """
    excluded = path_matcher(place.patterns.get("exclude", ()))
    with system_errors(f"cannot list {place.source.uri}"):
        for file in place.source.files(wanted):
            if isinstance(file, SourceFile) or not (is_hidden(file.path) or excluded(file.path)):
                yield file


def _nameable(place: SideSource, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
    """The source's files. Skips and logs files whose names cannot be stored."""
    for file in _files(place, wanted):
        name = f"{place.source.uri}{file.path}{file.etag if isinstance(file, SourceFile) else ''}"
        if _NO_NAME.search(name):
            problem = "control characters, or bytes that are not UTF-8"
        elif len(name.encode()) > _LONGEST_NAME:
            problem = f"more than {_LONGEST_NAME} bytes together with its source's address and its etag"
        else:
            yield file
            continue
        log.warning("skipped a file whose name has %s: %s; rename the file", problem, printable(f"{file.path:.200}"))


def shard_id(source: str, path: str, etag: str) -> str:
    """The shard's id in file names and in the warehouse: a digest of its source, path and etag."""
    return hashlib.blake2b(f"{source}\0{path}\0{etag}".encode(), digest_size=8).hexdigest()
