"""Exports captions as Parquet files with a manifest. An interrupted export, repeated, writes the same files.

``_export.json`` is written first. It holds the selection, the state of the warehouse, and the files that are finished.
When all files are finished, ``_manifest.json``, in the same format, replaces it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, computed_field

from capsfusion_tasks import __version__
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import export as captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.export import FUSION, KEY, ExportSession, Selection, Snapshot

# Readers of folders of Parquet files (pyarrow, Spark, …) skip names that start with an underscore.
BEGUN, MANIFEST = "_export.json", "_manifest.json"
ROWS_PER_FILE = 1_000_000
ROW_GROUP_ROWS = 50_000  # about 15 MB of the published columns, which the writer and a reader hold in memory
_PART = re.compile(r"part-\d{5,}\.parquet")

Overwrite = Literal["never", "outdated", "always"]


class Part(BaseModel):
    """A finished file."""

    file: str
    rows: int
    bytes: int
    sha256: str
    first_pair_id: str
    last_pair_id: str
    fusions: dict[str, int]  # fusion_id → rows


class Manifest(BaseModel):
    """What is exported, and the files that are finished."""

    version: str = __version__
    selection: Selection
    rows_per_file: int
    query: str
    snapshot: Snapshot
    columns: list[tuple[str, str]] = []  # name and Arrow type, in order
    files: list[Part] = []

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
    storage: Storage,
    selection: Selection,
    *,
    rows_per_file: int = ROWS_PER_FILE,
    overwrite: Overwrite = "never",
    say: Callable[[str], None] = print,
) -> Manifest:
    """Write the captions of ``selection`` to ``storage`` as part-00000.parquet, part-00001.parquet, …, by pair_id.

    A second call continues an interrupted export, with the captions that the warehouse had when it began. It does
    nothing if the export is complete. ``overwrite`` says when to start again: never, if the warehouse has other
    captions now (outdated), or always.

    Raises InputError for a folder with another export or other files, and if captions of an interrupted export were
    replaced since. Raises NotReadyError if the warehouse or ``storage`` does not answer.
    """
    try:
        with captions.export_session(warehouse, storage.path("")) as session:
            if selection.where is not None:
                session.check_where(selection.where)
            manifest = _begin(session, storage, selection, rows_per_file, overwrite)
            if not storage.exists(MANIFEST):
                for part in _write_parts(session, storage, manifest):
                    say(f"{part.file}: {part.rows} rows, {part.bytes} bytes; {manifest.rows} rows so far")
                storage.write_json(MANIFEST, manifest.model_dump(mode="json"))
            if storage.exists(BEGUN):
                storage.delete(BEGUN)
    except OSError as error:
        raise NotReadyError(
            f"cannot write the export to {storage.path('')}: {error}; once that is mended, the same command goes on"
        ) from error
    return manifest


def _begin(
    session: ExportSession, storage: Storage, selection: Selection, rows_per_file: int, overwrite: Overwrite
) -> Manifest:
    """The export that is there, with the files that are whole, or a new one."""
    found = _find(storage, overwrite)
    if found is not None and overwrite != "always":
        _require_same(storage, found, selection, rows_per_file)
        outdated = overwrite == "outdated" and not session.freeze(selection).is_same_as(found.snapshot)
        if not outdated:
            whole = list(takewhile(lambda part: storage.size(part.file) == part.bytes, found.files))
            if len(whole) == len(found.files) and _read(storage, MANIFEST) == found:
                return found
            if not session.is_unchanged(found.snapshot):
                raise InputError(
                    f"captions of the export in {storage.path('')} were replaced in the warehouse since it began, at"
                    f" {found.snapshot.at:%Y-%m-%d %H:%M:%S} UTC, so the rest of it is gone: begin anew with"
                    " --overwrite, or in another folder"
                )
            return _start(storage, found.model_copy(update={"files": whole}))
    snapshot = session.freeze(selection)
    query = captions.captions_query(selection, several=len(snapshot.fusions) > 1, limit=selection.limit).as_string()
    return _start(storage, Manifest(selection=selection, rows_per_file=rows_per_file, query=query, snapshot=snapshot))


def _find(storage: Storage, overwrite: Overwrite) -> Manifest | None:
    """The export in the folder. Raises InputError where other files lie there."""
    files = storage.files("")
    others = [name for name in files if name not in (BEGUN, MANIFEST) and not _PART.fullmatch(name)]
    ours = [name for name in (BEGUN, MANIFEST) if name in files]  # with both there, an interrupted one
    if others or (files and not ours and overwrite != "always"):
        names = ", ".join((others or files)[:3])
        raise InputError(f"{storage.path('')} has files that belong to no export ({names}): give an empty folder")
    return _read(storage, ours[0]) if ours else None


def _read(storage: Storage, name: str) -> Manifest | None:
    return Manifest(**storage.read_json(name)) if storage.exists(name) else None


def _require_same(storage: Storage, found: Manifest, selection: Selection, rows_per_file: int) -> None:
    before = {**found.selection.model_dump(mode="json"), "rows_per_file": found.rows_per_file}
    now = {**selection.model_dump(mode="json"), "rows_per_file": rows_per_file}
    if differing := [f"{name} {before[name]}, now {now[name]}" for name in now if now[name] != before[name]]:
        raise InputError(
            f"{storage.path('')} has another export, made with {'; '.join(differing)}: give another folder, or replace "
            "it with --overwrite"
        )


def _start(storage: Storage, manifest: Manifest) -> Manifest:
    """Write the unfinished ``manifest`` to the folder, and delete all files that are not in it."""
    storage.write_json(BEGUN, manifest.model_dump(mode="json"))
    mine = {BEGUN, *(part.file for part in manifest.files)}
    for name in sorted(set(storage.files("")) - mine):  # the old manifest sorts first, so it is deleted first
        storage.delete(name)
    storage.delete_unpublished("")
    return manifest


def _write_parts(session: ExportSession, storage: Storage, manifest: Manifest) -> Iterator[Part]:
    """Write and enter the files that are missing, one after the other."""
    last = manifest.files[-1] if manifest.files else None
    left = None if manifest.selection.limit is None else manifest.selection.limit - manifest.rows
    if left == 0:
        return
    after = last.last_pair_id if last else None
    with session.captions(manifest.selection, manifest.snapshot, after=after, limit=left) as stream:
        rows = _Rows(*stream)
        manifest.columns = [(field.name, str(field.type)) for field in rows.schema]
        while group := rows.take(min(ROW_GROUP_ROWS, manifest.rows_per_file)):
            part = _write_part(storage, f"part-{len(manifest.files):05d}.parquet", group, rows, manifest.rows_per_file)
            manifest.files.append(part)
            storage.write_json(BEGUN, manifest.model_dump(mode="json"))
            yield part


def _write_part(storage: Storage, name: str, group: pa.Table | None, rows: _Rows, most: int) -> Part:
    """A file of ``group`` and what follows it, ``most`` rows at most."""
    count, first, last, fusions = 0, "", "", Counter[str]()
    with storage.publish(name) as stream:
        digesting = _Digesting(stream)
        with pq.ParquetWriter(digesting, rows.schema, compression="zstd") as writer:
            while group:
                writer.write_table(group.select(rows.schema.names).cast(rows.schema))
                first, last = first or group[KEY][0].as_py(), group[KEY][-1].as_py()
                for value in pc.value_counts(group[FUSION]).to_pylist():
                    fusions[value["values"]] += value["counts"]
                count += group.num_rows
                group = rows.take(min(ROW_GROUP_ROWS, most - count))
    return Part(
        file=name,
        rows=count,
        bytes=digesting.bytes,
        sha256=digesting.sha256.hexdigest(),
        first_pair_id=first,
        last_pair_id=last,
        fusions=dict(sorted(fusions.items())),
    )


class _Rows:
    """Takes rows off a stream by number, so that what is written does not depend on the sizes of its batches."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held = schema.empty_table()
        asked = [field for field in schema if field.name not in (KEY, FUSION)]
        self.schema = pa.schema([(field.name, _plain(field.type)) for field in asked])

    def take(self, rows: int) -> pa.Table | None:
        """The next ``rows`` rows, fewer at the end, None behind it."""
        tables = [self._held]
        missing = rows - self._held.num_rows
        while missing > 0 and (batch := next(self._batches, None)) is not None:
            tables.append(pa.Table.from_batches([batch]))
            missing -= batch.num_rows
        table = pa.concat_tables(tables)
        self._held = table.slice(rows)
        # One chunk: where pages end must not depend on where batches ended.
        return table.slice(0, rows).combine_chunks() if table.num_rows and rows else None


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without what the driver notes on a list's elements."""
    return pa.list_(kind.value_type) if pa.types.is_list(kind) else kind


class _Digesting(io.RawIOBase):
    """Passes on what is written, and digests it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
        return len(data)
