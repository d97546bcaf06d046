"""Finds and deletes files that no task needs any more, for `capsfusion gc`. Never deletes bucket files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing.image_results import batches_of
from capsfusion_tasks.planning import unit_files
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.shards.sources import image_results_source
from capsfusion_tasks.staging import layout, scratch
from capsfusion_tasks.staging.storage import Storage, StoredFile
from capsfusion_tasks.warehouse import fusions, invariants, ledger, ownership
from capsfusion_tasks.warehouse.invariants import LedgerUnit
from capsfusion_tasks.warehouse.locks import Kind
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope
from capsfusion_tasks.warehouse.sessions import LockedSession, locked_session

_SHOWN = 10  # number of items of each kind to show on a terminal

KINDS = {
    "units": "files of units that are loaded",
    "replays": "files with pairs of replays whose units are loaded",
    "unknown units": "files of units that are not in the ledger",
    "image results": "image results of an earlier source, and files of a run that was killed while reading results",
    "temporary files": "files that a killed process left unfinished",
    "scratch": "folders in this machine's scratch space whose process has ended",
}


@dataclass(frozen=True)
class Garbage:
    """Files that can be deleted. ``delete`` raises NotReadyError if a task needs them now."""

    kind: str  # a key of KINDS
    where: str  # a file, a folder, or a pattern of files
    bytes: int
    delete: Callable[[], None]


@dataclass
class Collection:
    """What `gc` found and deleted. ``kept``: path that was not deleted → why, for example because a task needs it."""

    found: list[Garbage]
    deleted: bool
    kept: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The result in the form that ``--format json`` prints."""
        each = [{"kind": one.kind, "where": one.where, "bytes": one.bytes} for one in self.found]
        return {"deleted": self.deleted, "found": each, "kept": list(self.kept)}

    def lines(self) -> Iterator[str]:
        """The lines to print on a terminal."""
        for kind, what in KINDS.items():
            its = [one for one in self.found if one.kind == kind]
            if its:
                yield f"{kind} ({what}): {len(its)}, {_bytes(its)}"
                yield from (f"    {one.where}" for one in its[:_SHOWN])
                if len(its) > _SHOWN:
                    yield f"    … and {len(its) - _SHOWN} more"
        for where, why in self.kept.items():
            yield f"kept: {where}: {why}"
        if not self.found:
            yield "nothing to delete"
        elif self.deleted:
            yield f"deleted {_bytes(one for one in self.found if one.where not in self.kept)}"
        else:
            yield f"nothing was deleted; --delete would free {_bytes(self.found)}"


def _bytes(garbage: Iterable[Garbage]) -> str:
    return f"{sum(one.bytes for one in garbage) / 1e6:.1f} MB"


def collect(context: Context, *, safe_age: timedelta, delete: bool) -> Collection:
    """Find files that no task needs any more: see ``find_garbage``. With ``delete``, also delete them."""
    keep = timedelta(days=context.settings.keep_units_days)
    collection = Collection(find_garbage(context, keep, safe_age), delete)
    for one in collection.found if delete else ():
        try:
            one.delete()
        except NotReadyError as error:
            collection.kept[one.where] = str(error)
        except FileNotFoundError:  # already deleted together with its folder
            continue
    return collection


def find_garbage(context: Context, keep: timedelta, safe_age: timedelta) -> list[Garbage]:
    """Files of units that were loaded more than ``keep`` ago, and other unneeded files older than ``safe_age``.

    Files of replays and of units that are not in the ledger must also be older than ``keep``. The files of an
    interval's or a replay's units are kept until the last of these units is loaded. Raises InputError if the ledger
    does not belong to the staging area, because such a ledger does not show which files are needed.
    """
    storage = context.storage
    files = storage.tree()
    now = datetime.now(UTC)
    with context.warehouse.engine.connect() as connection:
        units = invariants.ledger_units(connection, EVERYTHING)
        _require_same(storage, files, set(invariants.ledger_shards(connection)))
    found = [
        # Keep new files of units that are not in the ledger: a plan may be about to register the units.
        *_units(context, files, units, now - keep, unknown_before=now - max(keep, safe_age)),
        *_replays(context, files, units, now - max(keep, safe_age)),
    ]
    found += _image_results(context, files, now - safe_age)
    for file in files:
        if file.unpublished and file.modified < now - safe_age:
            found.append(Garbage("temporary files", file.path, file.size, partial(storage.delete, file.path)))
    for folder in scratch.abandoned(context.settings.scratch_folder, safe_age):
        found.append(Garbage("scratch", str(folder), scratch.size(folder), partial(scratch.remove, folder)))
    return found


def _require_same(storage: Storage, files: list[StoredFile], known: set[str]) -> None:
    marks = [file.path for file in files if file.path.startswith("buckets/") and file.path.endswith(".json")]
    pulled = {path.rpartition("/")[2].removesuffix(".json") for path in marks if "/pulled/" in path}
    if pulled and not pulled & known:
        raise InputError(
            f"none of the {len(pulled)} shards pulled into {storage.root} is in the ledger: set"
            " CAPSFUSION_WAREHOUSE_URL to the warehouse that the runs use"
        )


def _by_folder(files: list[StoredFile], parent: str) -> dict[str, list[StoredFile]]:
    folders: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        if file.path.startswith(f"{parent}/") and not file.unpublished:
            folders[file.path.split("/")[1]].append(file)
    return folders


def _units(
    context: Context,
    files: list[StoredFile],
    units: list[LedgerUnit],
    before: datetime,
    *,
    unknown_before: datetime,
) -> Iterator[Garbage]:
    by_id = {unit.unit_id: unit for unit in units}
    unfinished = {_work(unit) for unit in units if unit.state != "loaded"}
    for unit_id, its in _by_folder(files, "units").items():
        where, size = f"units/{unit_id}", sum(file.size for file in its)
        unit = by_id.get(unit_id)
        if unit is None:
            if all(file.modified < unknown_before for file in its):
                yield Garbage("unknown units", where, size, partial(_delete_unknown, context, unit_id))
        elif unit.loaded_at is not None and unit.loaded_at < before and _work(unit) not in unfinished:
            yield Garbage("units", where, size, partial(_delete_unit, context, unit_id))


def _work(unit: LedgerUnit) -> tuple[str, object]:
    return unit.fusion_id, unit.interval or unit.replay


def _delete_unit(context: Context, unit_id: str) -> None:
    with ownership.alone_with(context.warehouse.engine, unit_id) as connection:
        if ledger.loaded_unit(connection, unit_id) is None:
            raise NotReadyError(f"unit {unit_id} is no longer loaded")
        context.storage.delete_folder(f"units/{unit_id}")


def _delete_unknown(context: Context, unit_id: str) -> None:
    """Delete the files of a unit that was not in the ledger, unless a run has planned the unit since.

    This can happen, because planning the same pairs again gives the same unit id.
    """
    with context.warehouse.engine.connect() as connection:
        known = fusions.all_ids(connection)
    with _no_planning(context, "plan", [each for each in known if unit_files.may_be_of(unit_id, each)]) as session:
        with session.transaction() as connection:
            if invariants.ledger_units(connection, Scope(unit_ids=[unit_id])):
                raise NotReadyError(f"unit {unit_id} is in the ledger now")
        context.storage.delete_folder(f"units/{unit_id}")


def _delete_replay(context: Context, where: str) -> None:
    with context.warehouse.engine.connect() as connection:
        known = fusions.all_ids(connection)
    # Lock all fusions, because the folder's name does not tell to which fusion the replay belongs.
    with _no_planning(context, "replay", known):
        context.storage.delete_folder(where)


@contextmanager
def _no_planning(context: Context, kind: Kind, fusion_ids: Iterable[str]) -> Iterator[LockedSession]:
    """Prevent the planning of units of these fusions while the block runs.

    Raises NotReadyError if another process is planning such units.
    """
    with locked_session(context.warehouse.engine) as session:
        for fusion_id in fusion_ids:
            if not session.try_lock(kind, fusion_id):
                raise NotReadyError(f"another process plans units of fusion {fusion_id}; try again when it has ended")
        yield session


def _replays(context: Context, files: list[StoredFile], units: list[LedgerUnit], before: datetime) -> Iterator[Garbage]:
    """Files with the pairs of finished replays. Only planning reads these files, and a new plan writes them again."""
    open_ones = {Replay(name=unit.replay, fusion_id="").key for unit in units if unit.replay and unit.state != "loaded"}
    for key, its in _by_folder(files, layout.REPLAYS).items():
        if key not in open_ones and all(file.modified < before for file in its):
            where = f"{layout.REPLAYS}/{key}"
            yield Garbage("replays", where, sum(file.size for file in its), partial(_delete_replay, context, where))


def _image_results(context: Context, files: list[StoredFile], before: datetime) -> Iterator[Garbage]:
    """Image results that no plan reads: batches without a ``.json`` file, and batches of an earlier source."""
    storage, place = context.storage, image_results_source(context.settings)
    batches: dict[str, list[StoredFile]] = defaultdict(list)
    for file in files:
        if file.path.startswith(f"{layout.IMAGE_RESULTS}/") and not file.unpublished:
            batches[file.path.rpartition("/")[2].partition(".")[0]].append(file)
    listed = {name for name, its in batches.items() if any(file.path.endswith(".json") for file in its)}
    used = listed
    if place is not None:
        used = {batch.name for batch in batches_of(storage, place.origin.model_dump(mode="json"))}
    for name, its in batches.items():
        if name not in used and all(file.modified < before for file in its):
            paths = sorted((file.path for file in its), key=lambda path: not path.endswith(".json"))
            where, size = f"{layout.IMAGE_RESULTS}/**/{name}.*", sum(file.size for file in its)
            yield Garbage("image results", where, size, partial(_delete_batch, context, name, paths))


def _delete_batch(context: Context, name: str, paths: list[str]) -> None:
    """Delete the files of a batch of image results, unless a run has completed the batch since it was listed."""
    storage, mark = context.storage, layout.image_results_batch(name)
    with locked_session(context.warehouse.engine) as session:
        if not session.try_lock("image_results", storage.root):
            raise NotReadyError("another process reads image results; try again when it has ended")
        if mark not in paths and storage.exists(mark):
            raise NotReadyError(f"the batch {name} is complete now")
        for path in paths:
            with suppress(FileNotFoundError):  # already deleted by a run that replaced the batch
                storage.delete(path)
