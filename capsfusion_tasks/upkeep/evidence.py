"""Collects the data that the checks compare: the staging area's files, the lists of shards, and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.shards.failures import system_error
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage, StoredFile
from capsfusion_tasks.upkeep.listing import READERS, Listing, all_but_units, existing
from capsfusion_tasks.upkeep.progress import Doing, counted, unheard
from capsfusion_tasks.warehouse import invariants
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.invariants import LedgerShard, LedgerUnit
from capsfusion_tasks.warehouse.plans import PlannedPairs, last_plans
from capsfusion_tasks.warehouse.queries import Scope


@dataclass(frozen=True)
class PullMark:
    """What the pull of a shard recorded: rows read, rows dropped by reason, and rows in each bucket."""

    rows: int
    dropped: dict[str, int]
    buckets: dict[str, int]

    def __str__(self) -> str:
        return f"{self.rows} rows, dropped {self.dropped or 'none'}"


@dataclass(frozen=True)
class Evidence:
    """The data that the checks compare. It is read once, for all checks.

    A file is ``old`` if no running task can still write it or register it in the ledger.
    """

    settings: Settings
    storage: Storage
    warehouse: Warehouse
    scope: Scope
    listing: Listing
    bucket_files: int  # each bucket has about this many files
    lists: dict[Interval, list[Shard]]  # the shards of each interval in the scope
    broken_lists: dict[str, str]  # path of an unreadable list of shards, or of an unreadable pull record → error
    marks: dict[str, PullMark]  # shard_id → what the pull of the shard recorded, for the pulled shards of ``lists``
    others: set[str]  # ids of shards whose interval is outside the scope; empty unless all lists were read
    shards: dict[str, LedgerShard]
    units: list[LedgerUnit]
    known_units: set[str]
    plans: dict[tuple[Interval, str], PlannedPairs]  # (interval, fusion_id) → counts of the last plan
    written_before: datetime
    doing: Doing

    def old(self, file: StoredFile) -> bool:
        return file.modified < self.written_before

    def footer_rows(self, path: str) -> int | str:
        """The number of rows of a Parquet file, or what is wrong with it.

        Raises NotReadyError or InputError if the operating system reports an error. The file may then be intact.
        """
        try:
            return self.storage.footer(path)[1]
        except FileNotFoundError:
            return "the file is missing"
        except OSError as error:
            if error.errno is not None:
                raise system_error(f"cannot read {self.storage.path(path)}", error) from error
            return _short(error)
        except pa.ArrowException as error:
            return _short(error)


def gather(
    settings: Settings,
    storage: Storage,
    warehouse: Warehouse,
    scope: Scope,
    safe_age: timedelta,
    *,
    all_lists: bool = True,
    doing: Doing = unheard,
) -> Evidence:
    """Read the files and the ledger, in such an order that work in progress looks unfinished, not wrong.

    If ``scope`` has an interval, reads only the files of the intervals within ``scope``, of their shards and of their
    unfinished units. ``all_lists``: also read the shard lists of the other intervals. Raises InputError if the ledger
    belongs to another staging area.
    """
    doing("reading the ledger")
    with warehouse.engine.connect() as connection:
        ledger_shards = invariants.ledger_shards(connection)
    doing("listing the staging area")
    pulled = Counter(shard.side for shard in ledger_shards.values() if shard.state == "pulled")
    bucket_files = max(pulled.values(), default=0)
    whole = scope.interval is None
    intervals = shard_list.intervals(storage)
    inside = [one for one in intervals if scope.interval is None or one.is_within(scope.interval)]
    if whole:
        listing = Listing(all_but_units(storage, bucket_files))
    else:
        folders = read_ahead(storage.tree, (f"{layout.RUNS}/{interval.key}" for interval in inside), READERS)
        listing = Listing([*storage.stat([layout.BUCKETS_CONFIG]), *chain.from_iterable(folders)])
    if pulled and listing.get(layout.BUCKETS_CONFIG) is None:
        raise InputError(
            f"{storage.root} has no {layout.BUCKETS_CONFIG}, so it is not the staging area of the ledger's shards:"
            " mount the right staging area, or set CAPSFUSION_STAGING to the one that the runs use"
        )
    broken: dict[str, str] = {}
    lists = _lists(storage, inside, broken, doing)
    outside = _lists(storage, set(intervals) - set(inside), broken, doing) if all_lists else {}
    shards = [shard for found in lists.values() for shard in found]
    if not whole:
        listing += storage.stat((layout.pulled_mark(shard.side, shard.shard_id) for shard in shards), READERS)
    marks = _marks(storage, listing, shards, broken, doing)
    if not whole:
        doing("listing bucket files")
        noted = (
            layout.bucket_file(shard.side, int(bucket), shard.shard_id)
            for shard in shards
            if shard.shard_id in marks
            for bucket in marks[shard.shard_id].buckets
        )
        listing += existing(storage, noted, bucket_files)
    doing("reading the ledger")
    with warehouse.engine.connect() as connection:
        units = invariants.ledger_units(connection, scope)
        known = invariants.unit_ids(connection)
        last = last_plans(connection)
    # List chunks after reading the ledger: the list then has all chunks of each unit in state fused.
    doing("listing the files of units")
    unfinished = (f"units/{unit.unit_id}" for unit in units if unit.state != "loaded")
    listing += chain.from_iterable(read_ahead(storage.tree, ["units"] if whole else unfinished, READERS))
    return Evidence(
        settings=settings,
        storage=storage,
        warehouse=warehouse,
        scope=scope,
        listing=listing,
        bucket_files=bucket_files,
        lists=lists,
        broken_lists=broken,
        marks=marks,
        others={shard.shard_id for found in outside.values() for shard in found},
        shards=ledger_shards,
        units=units,
        known_units=known,
        plans=last,
        written_before=datetime.now(UTC) - safe_age,
        doing=doing,
    )


def _lists(
    storage: Storage, intervals: Collection[Interval], broken: dict[str, str], doing: Doing
) -> dict[Interval, list[Shard]]:
    """The shards in each interval's list of shards. Adds to ``broken`` the lists that cannot be read."""

    def read(interval: Interval) -> tuple[Interval, list[Shard] | None]:
        path = layout.discovered(interval)
        try:
            return interval, [Shard.model_validate(shard) for shard in storage.read_json(path)["shards"]]
        except FileNotFoundError:
            return interval, None
        except (InputError, ValueError, KeyError) as error:  # the file is not JSON, or not a list of shards
            broken[path] = _short(error)
            return interval, None

    lists = counted(read_ahead(read, intervals, READERS), doing, "reading lists of shards", len(intervals))
    return {interval: shards for interval, shards in lists if shards is not None}


def _marks(
    storage: Storage, listing: Listing, shards: Iterable[Shard], broken: dict[str, str], doing: Doing
) -> dict[str, PullMark]:
    """What the pull of each shard recorded, by shard_id. Adds to ``broken`` the records that cannot be read."""

    def read(shard: Shard) -> tuple[str, PullMark | None]:
        path = layout.pulled_mark(shard.side, shard.shard_id)
        try:
            mark = storage.read_json(path)
            if mark.get("whole", True):  # False while a task pulls the shard again
                return shard.shard_id, PullMark(mark["rows"], mark["dropped"], mark["buckets"])
        except (InputError, KeyError) as error:
            broken[path] = _short(error)
        return shard.shard_id, None

    pulled = [shard for shard in shards if listing.get(layout.pulled_mark(shard.side, shard.shard_id)) is not None]
    marks = counted(read_ahead(read, pulled, READERS), doing, "reading pull records", len(pulled))
    return {shard_id: mark for shard_id, mark in marks if mark is not None}


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
