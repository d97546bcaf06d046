"""What the checks look at, read once: the staging area's listing, its lists of shards, the ledger."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Interval, Settings
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
class Evidence:
    """``old`` files are those that no task can still be writing, or be about to enter in the ledger."""

    settings: Settings
    storage: Storage
    warehouse: Warehouse
    scope: Scope
    listing: Listing
    lists: dict[Interval, list[Shard]]  # the intervals of the scope and the shards that arrived in each
    broken_lists: dict[str, str]  # path of a list or mark that cannot be read → why
    marks: dict[str, dict[str, Any]]  # of the shards of ``lists`` and ``others``: what their pull has noted
    others: set[str]  # shards of intervals outside the scope
    shards: dict[str, LedgerShard]
    units: list[LedgerUnit]
    known_units: set[str]
    left: dict[tuple[Interval, str], int]  # (interval, fusion_id) that was planned → pairs that a limit left
    written_before: datetime

    def old(self, file: StoredFile) -> bool:
        return file.modified < self.written_before

    def footer_rows(self, path: str) -> int | str:
        """The rows of a Parquet file; or why it cannot be read."""
        try:
            return self.storage.footer(path)[1]
        except (pa.ArrowException, OSError) as error:
            return _short(error)


def gather(settings: Settings, storage: Storage, warehouse: Warehouse, scope: Scope, safe_age: timedelta) -> Evidence:
    """Read it. The ledger's shards first and its units last, so that what happens meanwhile looks unfinished, not
    wrong."""
    with warehouse.engine.connect() as connection:
        shards = invariants.ledger_shards(connection)
    listing = Listing(storage.tree())
    if listing.get(layout.BUCKETS_CONFIG) is None and any(shard.state == "pulled" for shard in shards.values()):
        raise InputError(
            f"{storage.root} is no staging area, it has no {layout.BUCKETS_CONFIG}, and the ledger has shards that were"
            " pulled: is it mounted, and does CAPSFUSION_STAGING name the one that the runs use?"
        )
    lists, others, broken = _lists(storage, listing, scope.interval)
    marks = {}
    for shard in (shard for found in lists.values() for shard in found):
        path = layout.pulled_mark(shard.side, shard.shard_id)
        if listing.get(path) is not None:
            try:
                mark = storage.read_json(path)
                if mark.get("whole", True):  # else the shard is being pulled again
                    marks[shard.shard_id] = mark
            except json.JSONDecodeError as error:
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
        except (ValueError, KeyError) as error:  # no JSON, or not that of a list
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
