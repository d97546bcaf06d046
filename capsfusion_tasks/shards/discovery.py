"""Which shards belong to an interval: those that arrived in it. The list is frozen after the interval's end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.listing import listed_shards
from capsfusion_tasks.shards.shard_list import Origin, ShardList, told
from capsfusion_tasks.shards.sources import SideSource
from capsfusion_tasks.staging.storage import Storage

log = logging.getLogger(__name__)


def discover(
    sources: Mapping[Side, SideSource],
    interval: Interval,
    storage: Storage,
    *,
    relist: bool = False,
    units: int = 0,
    remove: Callable[[list[Shard]], None] = lambda _: None,
    claim: Callable[[list[Shard]], set[str]] = lambda _: set(),
    on_listing: Callable[[Side, int], None] = lambda *_: None,
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
    interval has no ``units``, planned or loaded. Raises InputError if it has some, unless ``relist`` adds the shards
    of these sources.

    ``on_listing`` gets each side that is listed, and the bytes of all its shards.
    """
    now = {side: place.origin for side, place in sources.items()}
    listed = shard_list.read(interval, storage) or ShardList(frozen=False, shards=[], sources=now)
    known, frozen, leaving = listed.readable, listed.is_frozen and not relist, listed.unreadable
    if known and (before := listed.made_from(now)) != now and not relist:
        _require_no_units(interval, before, now, units)
        known, frozen, leaving = [], False, listed.shards
    over = datetime.now(UTC) >= interval.end  # read before the listing, which may miss files that arrive during it
    to_list = {side: place for side, place in sources.items() if not frozen or side in listed.incomplete}
    there = {side: listed_shards(side, place, interval) for side, place in to_list.items()}
    for side, shards in there.items():
        on_listing(side, sum(shard.size_bytes for shard in shards))
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
    found |= {shard.shard_id: shard for shard in known}  # unchanged: their rows may be pulled and paired
    shards = sorted(found.values(), key=lambda shard: (shard.side, shard.path, shard.arrived_at))
    if gone := [shard for shard in leaving if shard.shard_id not in found]:
        remove(gone)  # before the list drops them: every join reads all bucket files
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
