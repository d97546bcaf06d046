"""Exports captions as Parquet files with a manifest. Repeating an interrupted export writes the same files.

``_export.json`` is written first. It contains the selection, the state of the warehouse, and the list of finished
files. When all files are finished, ``_manifest.json``, in the same format, replaces ``_export.json``. The Parquet files
are in the folder ``data``, separate from the JSON files, because some programs read every file of a folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, computed_field

from capsfusion_tasks import __version__
from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.staging.scratch import temporary_folder
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.dataset_card import dataset_card, is_generated
from capsfusion_tasks.tasks.export_parts import Part, Rows, Target, write_part
from capsfusion_tasks.tasks.hub_folder import CARD, HubFolder
from capsfusion_tasks.warehouse import export as captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.export import ExportSession
from capsfusion_tasks.warehouse.export_selection import Selection, Snapshot, named_columns
from capsfusion_tasks.warehouse.load import loads_until, refuse_future_start
from capsfusion_tasks.warehouse.provenance import Origin

# Names start with an underscore, because pyarrow, Spark and other readers of folders then skip these files.
BEGUN, MANIFEST = "_export.json", "_manifest.json"
DATA = "data"
ROWS_PER_FILE = 1_000_000
_PART = re.compile(rf"({DATA}/)?part-\d{{5,}}\.parquet")

Overwrite = Literal["never", "outdated", "always"]


@contextmanager
def export_target(address: str, scratch: Path) -> Iterator[Target]:
    """Open the target of an export: a folder, ``s3://bucket/prefix`` or ``hf://datasets/owner/name[@branch][/folder]``.

    Files for the hub (``hf://``) are first written to a temporary folder in ``scratch``.
    """
    if address.lower().startswith(("http://", "https://")):
        raise InputError(
            f"cannot export to {address}: give a folder, s3://bucket/prefix or hf://datasets/owner/name (for the hub)"
        )
    if not address.lower().startswith("hf://"):
        yield Storage(address)
        return
    with temporary_folder(scratch, "upload-", f"the files of {address}") as uploads:
        yield HubFolder(address, uploads)


class Manifest(BaseModel):
    """The description of an export: its selection, and the files that are finished."""

    version: str = __version__
    selection: Selection
    rows_per_file: int
    folder: str = ""  # folder of the Parquet files; "" if an earlier version wrote them beside the manifest
    query: str
    snapshot: Snapshot
    columns: list[tuple[str, str]] = []  # name and Arrow type of each column of the files, in order
    files: list[Part] = []
    origins: list[Origin] = []  # releases and licences of the captions, counted when all files are finished

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.files)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rows_by_fusion(self) -> dict[str, int]:
        return dict(sum((Counter(part.fusions) for part in self.files), start=Counter()))


def export_captions(
    warehouse: Warehouse,
    target: Target,
    selection: Selection,
    *,
    rows_per_file: int = ROWS_PER_FILE,
    overwrite: Overwrite = "never",
    say: Callable[[str], None] = print,
) -> Manifest:
    """Write the captions of ``selection`` to ``target`` as data/part-00000.parquet, data/part-00001.parquet, …

    The captions are sorted by pair_id. If the target is a whole repository of the hub, a data set card is added.

    If the target has an interrupted export of the same selection, this function continues it with the captions that the
    warehouse had when the export began. If the target has a complete export, this function does nothing. ``overwrite``
    tells when to start the export again instead: ``never``, ``outdated`` (if captions in the warehouse have changed),
    or ``always``.

    Raises InputError if the folder has another export or other files, or if captions of an interrupted export were
    replaced in the warehouse. Raises NotReadyError if the warehouse or ``target`` does not answer, or if a time in the
    selection (``loaded_from``, ``loaded_before``) is in the future.
    """
    if selection.loaded_from is not None:
        refuse_future_start(warehouse, selection.loaded_from)
    if selection.loaded_before is not None:
        loads_until(warehouse, selection.loaded_before)
    try:
        with captions.export_session(warehouse, target.path("")) as session:
            if selection.where is not None:
                session.check_where(selection.where)
            manifest = _begin(session, target, selection, rows_per_file, overwrite)
            if target.exists(MANIFEST):
                say(
                    f"this export was complete at {manifest.snapshot.at:%Y-%m-%d %H:%M:%S} UTC, so nothing is written:"
                    " for captions that were loaded later, give another folder, or replace this export with --overwrite"
                )
            else:
                for part in _write_parts(session, target, manifest):
                    say(f"{part.file}: {part.rows} rows, {part.bytes} bytes; {manifest.rows} rows so far")
                manifest.origins = session.origins(manifest.selection, manifest.snapshot)
                if isinstance(target, HubFolder) and target.is_whole_repository:
                    _write_card(session, target, manifest, say)
                target.write_json(MANIFEST, manifest.model_dump(mode="json"))
            if target.exists(BEGUN):
                target.delete(BEGUN)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            f"cannot write the export to {target.path('')}: {error.strerror or error}; give a folder that this user may"
            " write to"
        ) from error
    except OSError as error:
        raise NotReadyError(
            f"cannot write the export to {target.path('')}: {error}; fix the problem, then run the same command"
            " again to continue"
        ) from error
    return manifest


def export_filtered(
    warehouse: Warehouse,
    wanted: CaptionFilter,
    export_to: str,
    scratch: Path,
    *,
    columns: str | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Export the accepted captions that the filter ``wanted`` selects. Raises the errors of ``export_captions``.

    ``export_to`` and ``scratch``: the arguments of ``export_target``.
    """
    if not wanted.of_accepted:
        raise InputError(
            "the filter selects rejected captions, but an export has only accepted ones: unset `verdict` and `reason`"
        )
    # Verdict "any" and verdict "accepted" select the same captions for an export, so record both as "any". A rerun with
    # the other verdict then continues the same export.
    wanted = wanted.model_copy(update={"verdict": "any"})
    selection = Selection(columns=named_columns(columns), fusion_id=wanted.fusion_id, filter=wanted, limit=limit)
    with export_target(export_to, scratch) as target:
        manifest = export_captions(warehouse, target, selection, say=say)
        return {"target": target.path(""), "rows": manifest.rows, "files": len(manifest.files)}


def _begin(
    session: ExportSession, target: Target, selection: Selection, rows_per_file: int, overwrite: Overwrite
) -> Manifest:
    """Return the manifest of the export in the folder, with the files that are complete.

    If the folder has no export, or has an export that ``overwrite`` says to replace, begin a new export.
    """
    found = _find(target, overwrite)
    if found is not None and overwrite != "always":
        _require_same(target, found, _as_recorded(session, selection, found.selection), rows_per_file)
        outdated = overwrite == "outdated" and not session.freeze(selection).is_same_as(found.snapshot)
        if not outdated:
            whole = list(takewhile(lambda part: target.size(part.file) == part.bytes, found.files))
            if len(whole) == len(found.files) and _read(target, MANIFEST) == found:
                return found
            if not session.is_unchanged(found.snapshot):
                raise InputError(
                    f"the export in {target.path('')} cannot be completed: some of its captions were replaced in the"
                    f" warehouse after the export began ({found.snapshot.at:%Y-%m-%d %H:%M:%S} UTC). Start again with"
                    " --overwrite, or in another folder"
                )
            return _start(target, found.model_copy(update={"files": whole, "snapshot": _named(session, target, found)}))
    selection, snapshot = session.resolve(selection), session.freeze(selection)
    query = captions.captions_query(
        selection, several=len(snapshot.fusions) > 1, releases=snapshot.releases, limit=selection.limit
    ).as_string()
    manifest = Manifest(selection=selection, rows_per_file=rows_per_file, folder=DATA, query=query, snapshot=snapshot)
    return _start(target, manifest)


def _as_recorded(session: ExportSession, now: Selection, before: Selection) -> Selection:
    """Return ``now`` in the form in which a manifest recorded ``before``, so that the two can be compared.

    The SQL of a filter depends on the units and shards in the ledger, so the same filter may give other SQL now. So the
    SQL is compared only if an earlier version of capsfusion began the export and recorded no filter.
    """
    if now.filter is None:
        return now
    if before.filter is None:
        return session.resolve(now).model_copy(update={"filter": None})
    return now.model_copy(update={"where": before.where})


def _named(session: ExportSession, target: Target, found: Manifest) -> Snapshot:
    """The snapshot of an interrupted export. Adds the sources' release names if an earlier version left them out."""
    if found.snapshot.releases:
        return found.snapshot
    if {"laion_2b_source", "laion_coco_source"} & {*found.selection.columns}:
        raise InputError(
            f"an earlier version of capsfusion began the export in {target.path('')} and wrote addresses of sources"
            " instead of names of releases: start again with --overwrite, or in another folder"
        )
    return found.snapshot.model_copy(update={"releases": session.releases()})


def _find(target: Target, overwrite: Overwrite) -> Manifest | None:
    """The manifest of the export in the folder. None without an export. Raises InputError if there are other files."""
    files = [*target.files(""), *target.files(DATA)]
    others = [name for name in files if name not in (BEGUN, MANIFEST) and not _PART.fullmatch(name)]
    ours = [name for name in (BEGUN, MANIFEST) if name in files]  # if both files exist, the export was interrupted
    if others or (files and not ours and overwrite != "always"):
        names = ", ".join((others or files)[:3])
        raise InputError(f"{target.path('')} has files that belong to no export ({names}): give an empty folder")
    return _read(target, ours[0]) if ours else None


def _read(target: Target, name: str) -> Manifest | None:
    return Manifest(**target.read_json(name)) if target.exists(name) else None


def _require_same(target: Target, found: Manifest, selection: Selection, rows_per_file: int) -> None:
    before, now = _options(found.selection, found.rows_per_file), _options(selection, rows_per_file)
    shown = {name: [("none" if value is None else value) for value in (before[name], now[name])] for name in now}
    if differing := [f"{name} was {old}, is now {new}" for name, (old, new) in shown.items() if old != new]:
        raise InputError(
            f"{target.path('')} contains an export with other options ({'; '.join(differing)}): give another folder, or"
            " replace that export with --overwrite"
        )


def _options(selection: Selection, rows_per_file: int) -> dict[str, Any]:
    wanted = selection.filter and selection.filter.model_dump(mode="json", exclude_defaults=True)
    return {**selection.model_dump(mode="json"), "filter": wanted, "rows_per_file": rows_per_file}


def _start(target: Target, manifest: Manifest) -> Manifest:
    """Write the unfinished ``manifest`` to the folder, and delete all files that ``manifest`` does not list."""
    target.write_json(BEGUN, manifest.model_dump(mode="json"))
    mine = {BEGUN, *(part.file for part in manifest.files)}
    # Delete the old manifest first, because a folder with a manifest counts as a complete export.
    target.delete(*sorted(set(target.files("")) - mine), *sorted(set(target.files(DATA)) - mine))
    for folder in ("", DATA):
        target.delete_unpublished(folder)
    return manifest


def _write_parts(session: ExportSession, target: Target, manifest: Manifest) -> Iterator[Part]:
    """Write the missing Parquet files one after the other, and add each to the manifest."""
    last = manifest.files[-1] if manifest.files else None
    left = None if manifest.selection.limit is None else manifest.selection.limit - manifest.rows
    if left == 0:
        return
    after = last.last_pair_id if last else None
    with session.captions(manifest.selection, manifest.snapshot, after=after, limit=left) as stream:
        rows = Rows(*stream)
        manifest.columns = [(field.name, str(field.type)) for field in rows.schema]
        while (part := write_part(target, _next_name(manifest), rows, manifest.rows_per_file)) is not None:
            manifest.files.append(part)
            target.write_json(BEGUN, manifest.model_dump(mode="json"))
            yield part


def _next_name(manifest: Manifest) -> str:
    return f"{manifest.folder}/part-{len(manifest.files):05d}.parquet".lstrip("/")


def _write_card(session: ExportSession, target: HubFolder, manifest: Manifest, say: Callable[[str], None]) -> None:
    card = target.read_card()
    if card is not None and not is_generated(card):
        say(f"{target.path(CARD)} was written or changed by a person, so the export does not replace it")
        return
    card = dataset_card(
        files=f"{manifest.folder}/*.parquet".lstrip("/"),
        rows=manifest.rows_by_fusion,
        columns=manifest.columns,
        selection=manifest.selection,
        snapshot=manifest.snapshot,
        outcome=session.outcome(manifest.snapshot),
        origins=manifest.origins,
    )
    target.write_card(card)
