"""What the checks compare, read once: the staging area's files, the lists of shards, the ledger."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage, StoredFile
from capsfusion_tasks.warehouse import invariants
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.invariants import LedgerShard, LedgerUnit
from capsfusion_tasks.warehouse.plans import last_left
from capsfusion_tasks.warehouse.queries import Scope


class Listing:
    """The staging area's files, by path."""

    def __init__(self, files: Iterable[StoredFile]) -> None:
        self._files = list(files)
        self._paths = [file.path for file in self._files]

    def __iter__(self) -> Iterator[StoredFile]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def under(self, folder: str) -> list[StoredFile]:
        """Published files in ``folder`` and below it."""
        first, end = bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, f"{folder}0")  # "0" follows "/"
        return [file for file in self._files[first:end] if not file.unpublished]

    def get(self, path: str) -> StoredFile | None:
        place = bisect_left(self._paths, path)
        return self._files[place] if place < len(self._paths) and self._paths[place] == path else None


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
    """Everything that the checks read.

    A file is ``old`` if no running task can still write it, or still has to enter it in the ledger.
    """

    settings: Settings
    storage: Storage
    warehouse: Warehouse
    scope: Scope
    listing: Listing
    lists: dict[Interval, list[Shard]]  # the shards of each interval in the scope
    broken_lists: dict[str, str]  # path of an unreadable list or mark → error
    marks: dict[str, PullMark]  # shard_id → what its pull recorded; pulled shards of ``lists`` only
    others: set[str]  # shards of intervals outside the scope
    shards: dict[str, LedgerShard]
    units: list[LedgerUnit]
    known_units: set[str]
    left: dict[tuple[Interval, str], int]  # planned (interval, fusion_id) → pairs left out by a limit
    written_before: datetime

    def old(self, file: StoredFile) -> bool:
        return file.modified < self.written_before

    def footer_rows(self, path: str) -> int | str:
        """The number of rows of a Parquet file, or why it cannot be read."""
        try:
            return self.storage.footer(path)[1]
        except (pa.ArrowException, OSError) as error:
            return _short(error)


def gather(settings: Settings, storage: Storage, warehouse: Warehouse, scope: Scope, safe_age: timedelta) -> Evidence:
    """Read the ledger's shards first and its units last: what a running task changes meanwhile then looks unfinished,
    not wrong. Raises InputError where the staging area is not the one of the ledger."""
    with warehouse.engine.connect() as connection:
        shards = invariants.ledger_shards(connection)
    listing = Listing(storage.tree())
    if listing.get(layout.BUCKETS_CONFIG) is None and any(shard.state == "pulled" for shard in shards.values()):
        raise InputError(
            f"{storage.root} has no {layout.BUCKETS_CONFIG}, so it is not the staging area of the ledger's shards:"
            " mount it, or set CAPSFUSION_STAGING to the one that the runs use"
        )
    lists, others, broken = _lists(storage, listing, scope.interval)
    marks: dict[str, PullMark] = {}
    for shard in (shard for found in lists.values() for shard in found):
        path = layout.pulled_mark(shard.side, shard.shard_id)
        if listing.get(path) is not None:
            try:
                mark = storage.read_json(path)
                if mark.get("whole", True):  # otherwise the shard is being pulled again
                    marks[shard.shard_id] = PullMark(mark["rows"], mark["dropped"], mark["buckets"])
            except (json.JSONDecodeError, KeyError) as error:
                broken[path] = _short(error)
    with warehouse.engine.connect() as connection:
        units = invariants.ledger_units(connection, scope)
        known = invariants.unit_ids(connection)
        left = last_left(connection)
    return Evidence(
        settings=settings,
        storage=storage,
        warehouse=warehouse,
        scope=scope,
        listing=listing,
        lists=lists,
        broken_lists=broken,
        marks=marks,
        others=others,
        shards=shards,
        units=units,
        known_units=known,
        left=left,
        written_before=datetime.now(UTC) - safe_age,
    )


def _lists(
    storage: Storage, listing: Listing, within: Interval | None
) -> tuple[dict[Interval, list[Shard]], set[str], dict[str, str]]:
    lists: dict[Interval, list[Shard]] = {}
    others: set[str] = set()
    broken = {}
    for file in listing.under(layout.RUNS):
        _, key, name = file.path.split("/", 2)
        if name != "shards.json":
            continue
        try:
            found = [Shard.model_validate(shard) for shard in storage.read_json(file.path)["shards"]]
        except (ValueError, KeyError) as error:  # not JSON, or not a list of shards
            broken[file.path] = _short(error)
            continue
        interval = Interval.from_key(key)
        if within is None or interval.is_within(within):
            lists[interval] = found
        else:
            others |= {shard.shard_id for shard in found}
    return lists, others, broken


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
