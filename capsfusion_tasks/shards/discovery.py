"""Lists the shards that arrived in an interval. After the interval's end, the list is frozen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.listing import listed_shards, require_one_source
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
    image_results: Sequence[Shard] = (),
    remove: Callable[[list[Shard]], None] = lambda _: None,
    claim: Callable[[list[Shard]], set[str]] = lambda _: set(),
    on_listing: Callable[[Side, list[Shard]], None] = lambda *_: None,
) -> list[Shard]:
    """List the interval's shards, sorted by side and path. Later stages read the list with ``discovered``.

    Before the interval's end, each call adds the shards that arrived since the last call. After the end, the first call
    that finds a shard freezes the list, so that a rerun or a backfill does the same work. ``relist`` adds new shards to
    a frozen list. The list contains unreadable files as shards with a ``problem``. Later calls list a side again if
    some of its files were unreadable, or if its source had no shard at all: someone may still copy shards with old
    modification times into the source.

    A shard belongs to the interval in which it arrived. The shard is late if it appears after this interval has ended
    and has a list, even an empty list. The next interval that is listed takes the late shards: ``claim`` gets the late
    shards that were found, and returns the ids of those that this interval may take. An interval must also claim its
    own late shards, so that no other interval takes them.

    If the sources or patterns changed, the list is made again, and ``remove`` is called with the shards that are no
    longer in the list. Raises InputError instead if a source cannot be listed or has no readable shard (its address may
    be mistyped), or if the interval already has units (``units`` is their number). With ``relist``, the old list is
    kept, and the shards of the new sources are added.

    Raises InputError if a file is in the sources of both sides, or is one of the ``image_results``.

    Calls ``on_listing`` for each side that it lists, with the side and all shards of its source.
    """
    now = {side: place.origin for side, place in sources.items()}
    listed = shard_list.read(interval, storage) or ShardList(frozen=False, shards=[], sources=now)
    known, frozen, leaving = listed.readable, listed.is_frozen and not relist, listed.unreadable
    before = listed.made_from(now)
    if changed := bool(known) and before != now and not relist:
        known, frozen, leaving = [], False, listed.shards
    # Read the clock before listing, because the listing may miss files that arrive while it runs.
    over = datetime.now(UTC) >= interval.end
    to_list = {side: place for side, place in sources.items() if not frozen or side in listed.incomplete}
    there = {side: listed_shards(side, place, interval) for side, place in to_list.items()}
    if changed:
        empty = {side for side in there if all(shard.problem for shard in there[side])} - {*listed.empty}
        _require_shards([side for side in now if side in empty], before, now)
        _require_no_units(interval, before, now, units)
    for side, shards in there.items():
        on_listing(side, shards)
    arrived = [shard for shards in there.values() for shard in shards]
    require_one_source([*arrived, *image_results])
    own = [shard for shard in arrived if interval.start <= shard.arrived_at < interval.end]
    if listed.is_closed and before == now:
        known_ids = {shard.shard_id for shard in known}
        late = [shard for shard in own if shard.shard_id not in known_ids and not shard.problem]
        own = [shard for shard in own if shard.problem]
    else:
        late = _late(arrived, interval, storage, now)
    claimed = claim(late)
    found = {shard.shard_id: shard for shard in [*own, *(shard for shard in late if shard.shard_id in claimed)]}
    # Keep all listed shards, because their rows may already be pulled and paired.
    found |= {shard.shard_id: shard for shard in _with_new_revisions(known, arrived)}
    shards = sorted(found.values(), key=lambda shard: (shard.side, shard.path, shard.arrived_at))
    if gone := [shard for shard in leaving if shard.shard_id not in found]:
        # Remove the shards before the new list is written. If this task is killed before that, the old list still has
        # the shards, and a retry removes them. In the other order, shards that are in no list could keep their rows,
        # and joins would read these rows.
        remove(gone)
    made = ShardList(
        frozen=frozen or over, shards=shards, sources=now, empty=tuple(side for side in there if not there[side])
    )
    # After the interval's end, also write an empty list, so that shards that appear later count as late. Write no list
    # if all sources are empty, because empty sources say nothing about the interval.
    if made != listed and (shards or listed.shards or (over and set(made.empty) < set(now))):
        shard_list.write(interval, storage, made)
    return shards


def _with_new_revisions(known: Iterable[Shard], arrived: Iterable[Shard]) -> list[Shard]:
    """The shards in ``known``. Those that are also in ``arrived`` get the revision (commit) from there.

    The shard has the same content in both revisions, because its etag is part of its id. The earlier revision may no
    longer exist. The shards keep their arrival times.
    """
    revisions = {shard.shard_id: shard.revision for shard in arrived}
    return [shard.model_copy(update={"revision": revisions.get(shard.shard_id, shard.revision)}) for shard in known]


def _late(arrived: Iterable[Shard], interval: Interval, storage: Storage, now: dict[Side, Origin]) -> list[Shard]:
    """Find late shards of other intervals: shards whose interval has a closed list, but which are in no list.

    ``ShardList.is_closed`` tells whether a list is closed. Only closed lists with the same source and patterns count,
    because other lists could not contain these shards.
    """
    closed: dict[Side, list[Interval]] = {side: [] for side in now}
    listed_ids: set[str] = set()
    for other, listed in shard_list.lists_of_others(interval, storage).items():
        listed_ids.update(listed.shard_ids)
        for side, origin in listed.made_from(now).items():
            if listed.closed and origin == now.get(side) and side not in listed.empty:
                closed[side].append(other)
    return [
        shard
        for shard in arrived
        if not shard.problem
        and shard.shard_id not in listed_ids
        and not interval.start <= shard.arrived_at < interval.end
        and any(other.start <= shard.arrived_at < other.end for other in closed[shard.side])
    ]


def _require_shards(empty: Sequence[Side], before: dict[Side, Origin], now: dict[Side, Origin]) -> None:
    """Raise InputError if there are ``empty`` sides, whose sources have no readable shard.

    The addresses of these sources may be mistyped. Without this error, all shards of the interval that were pulled from
    the earlier sources would be removed.
    """
    if empty:
        places = " and ".join(f"{side} has no readable shard at all in {now[side]}" for side in empty)
        raise InputError(
            f"{places}: correct the folder or address, or its patterns. Earlier, the shards of this interval were"
            f" listed from {told(before, now)}. If shards will arrive in the new place later, run the interval when"
            " they are there"
        )


def _require_no_units(interval: Interval, before: dict[Side, Origin], now: dict[Side, Origin], units: int) -> None:
    then = told(before, now)
    if units:
        raise InputError(
            f"the sources or patterns have changed: the shards of this interval were listed from {then}, and {units}"
            " units of these shards are planned or loaded. Set the old sources again, set CAPSFUSION_STAGING to an"
            f" empty folder, or add the current shards: {interval.command} --relist (in Airflow: the Param relist)"
        )
    log.warning("discover: the interval is listed again, because its list was made from other sources: %s", then)


def discovered(interval: Interval, storage: Storage) -> list[Shard]:
    """The interval's shards, as ``discover`` last listed them. Empty if it found no shard."""
    listed = shard_list.read(interval, storage)
    return listed.shards if listed else []
