"""Checks that unfinished units have their pairs and chunks, and that a process fuses each unit in state fusing.

A chunk is a file with some of the unit's fused rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import BrokenChunk, Chunk
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import StoredFile
from capsfusion_tasks.upkeep.evidence import Evidence
from capsfusion_tasks.upkeep.findings import REPAIR, Finding, finish
from capsfusion_tasks.upkeep.listing import READERS, Listing
from capsfusion_tasks.upkeep.progress import counted
from capsfusion_tasks.upkeep.repeated_pairs import repeated_pairs
from capsfusion_tasks.warehouse import ownership
from capsfusion_tasks.warehouse.invariants import LedgerUnit, forgotten
from capsfusion_tasks.warehouse.queries import Scope


def findings(evidence: Evidence) -> Iterator[Finding]:
    """Problems of units that are not loaded, and of unit folders whose unit is not in the ledger."""
    abandoned = set(ownership.abandoned_units(evidence.warehouse.engine, evidence.scope))
    unfinished = [unit for unit in evidence.units if unit.state != "loaded"]
    pairs = read_ahead(partial(_pairs, evidence), unfinished, READERS)
    pairs = counted(pairs, evidence.doing, "reading pairs of units", len(unfinished))
    broken = dict(zip(unfinished, pairs, strict=True))
    whole = [unit for unit in unfinished if broken[unit] is None]
    # Read the chunks of several units in parallel, because a single unit may have only a few chunks.
    chunks = read_ahead(
        partial(chunk_files.read, evidence.storage, columns=["row"]),
        (path for unit in whole for path in _chunk_paths(evidence.listing, unit)),
        READERS,
    )
    validated = read_ahead(partial(_validated, evidence), whole, READERS)
    for unit in counted(unfinished, evidence.doing, "checking units", len(unfinished)):
        if found := broken[unit]:
            yield found
            continue
        if unit.state == "failed":
            what = f"the unit failed {unit.tries} times, the last time with: {unit.error}"
            yield Finding("unit-failed", unit.unit_id, what, f"solve the problem, then {finish(unit)}")
        if unit.unit_id in abandoned:
            what = "the unit is in state fusing, but no process holds its lock in the warehouse"
            repair = partial(_put_back_abandoned, evidence, unit)
            yield Finding("unit-stuck", unit.unit_id, what, f"{REPAIR}, or {finish(unit)}", repair)
        yield from _chunks(evidence, unit, islice(chunks, len(_chunk_paths(evidence.listing, unit))))
        if found := next(validated):
            yield found
    yield from _shared_pairs(evidence, whole)
    if evidence.scope.interval is None:
        yield from _unknown(evidence)


def _pairs(evidence: Evidence, unit: LedgerUnit) -> Finding | None:
    path = layout.unit_pairs(unit.unit_id)
    rows = evidence.footer_rows(path)
    if rows == unit.rows_in:
        return None
    what = f"{path} has {rows} rows, but the plan has {unit.rows_in}" if isinstance(rows, int) else f"{path}: {rows}"
    repair = partial(_forget_without_pairs, evidence, unit)
    return Finding("unit-pairs", unit.unit_id, what, f"{REPAIR}, then {finish(unit)}", repair)


def _chunk_paths(listing: Listing, unit: LedgerUnit) -> list[str]:
    return [file.path for file in listing.under(layout.chunks_folder(unit.unit_id))]


def _chunks(evidence: Evidence, unit: LedgerUnit, chunks: Iterable[Chunk | BrokenChunk | None]) -> Iterator[Finding]:
    """Findings about unreadable ``chunks``, and about a fused unit that lacks rows or waits for its validation."""
    rows: set[int] = set()
    for found in chunks:
        if isinstance(found, BrokenChunk):
            repair = partial(_delete, evidence, unit, found.path)
            yield Finding("chunk-broken", found.path, found.why, f"{REPAIR}, then {finish(unit)}", repair)
        elif found is not None and found.fusion_id == unit.fusion_id:
            rows.update(found.rows["row"].to_pylist())
    if unit.state != "fused":
        return
    if missing := set(range(unit.rows_in)) - rows:
        what = (
            f"the unit is fused, but {len(missing)} of its {unit.rows_in} rows are in no chunk;"
            f" the first of them is row {min(missing) + 1}"
        )
        yield Finding(
            "unit-chunks",
            unit.unit_id,
            what,
            f"{REPAIR}, then {finish(unit)}",
            partial(_put_back_without_rows, evidence, unit),
        )
    elif all(evidence.old(file) for file in evidence.listing.under(f"units/{unit.unit_id}")):
        yield Finding("unit-waiting", unit.unit_id, "the unit is fused, but not loaded", finish(unit))


def _validated(evidence: Evidence, unit: LedgerUnit) -> Finding | None:
    path = layout.unit_validated(unit.unit_id)
    if evidence.listing.get(path) is None or (rows := evidence.footer_rows(path)) == unit.rows_in:
        return None
    what = f"the file has {rows} rows, but the unit has {unit.rows_in}" if isinstance(rows, int) else rows
    repair = partial(_delete, evidence, unit, path)
    return Finding("validated-broken", path, what, f"{REPAIR}, then {finish(unit)}", repair)


def _shared_pairs(evidence: Evidence, units: list[LedgerUnit]) -> Iterator[Finding]:
    """Findings about unloaded units that share pairs with an earlier unloaded unit of the same fusion.

    The repairs of all findings together leave each pair in one unit. A unit that shares pairs only with dropped units
    is kept.
    """
    by_fusion: dict[str, list[LedgerUnit]] = defaultdict(list)
    for unit in units:
        by_fusion[unit.fusion_id].append(unit)
    for together in by_fusion.values():
        owners: dict[bytes, LedgerUnit] = {}
        unit_ids = [unit.unit_id for unit in together]
        repeated = repeated_pairs(evidence.storage, evidence.settings, unit_ids, evidence.doing)
        for unit, pair_ids in zip(together, repeated, strict=True):
            if shared := [pair_id for pair_id in pair_ids if pair_id in owners]:
                first = owners[shared[0]].unit_id
                what = (
                    f"{len(shared)} pairs of this unit are in other unloaded units, too; the first pair is in {first}"
                )
                mend = f"{REPAIR}, which drops this unit; then {finish(unit)}"
                yield Finding("pair-in-two-units", unit.unit_id, what, mend, partial(_forget, evidence, unit))
            else:
                owners |= dict.fromkeys(pair_ids, unit)


def _unknown(evidence: Evidence) -> Iterator[Finding]:
    folders: dict[str, list[StoredFile]] = defaultdict(list)
    for file in evidence.listing.under("units"):
        folders[file.path.split("/")[1]].append(file)
    for unit_id in sorted(folders.keys() - evidence.known_units):
        if all(evidence.old(file) for file in folders[unit_id]):
            what = f"{len(folders[unit_id])} files of a unit that is not in the ledger"
            mend = "run capsfusion gc --delete when the files are old enough (CAPSFUSION_KEEP_UNITS_DAYS)"
            yield Finding("unit-unknown", f"units/{unit_id}", what, mend)


def _put_back_abandoned(evidence: Evidence, unit: LedgerUnit) -> str:
    """Set the unit back to planned, unless another attempt has started or finished it since the check."""
    if unit.unit_id not in ownership.abandoned_units(evidence.warehouse.engine, Scope(unit_ids=[unit.unit_id])):
        return "kept: another attempt has started or finished the unit since the check"
    return _put_back(evidence, unit)


def _put_back_without_rows(evidence: Evidence, unit: LedgerUnit) -> str:
    """Set the unit back to planned, unless its chunks have all rows now."""
    now = replace(evidence, listing=Listing(evidence.storage.tree(f"units/{unit.unit_id}")))
    chunks = chunk_files.read_each(now.storage, _chunk_paths(now.listing, unit), ["row"])
    if all(finding.rule != "unit-chunks" for finding in _chunks(now, unit, chunks)):
        return "kept: its chunks have all rows now"
    return _put_back(evidence, unit)


def _put_back(evidence: Evidence, unit: LedgerUnit) -> str:
    ownership.put_back(evidence.warehouse.engine, unit.unit_id)
    return "set to planned: the next run keeps its chunks and fuses only the rows that they lack"


def _forget_without_pairs(evidence: Evidence, unit: LedgerUnit) -> str:
    """Drop the unit, unless its pairs can be read now. Dropping a unit deletes its finished captions."""
    if _pairs(evidence, unit) is None:
        return "kept: its pairs can be read now, so the error was temporary"
    return _forget(evidence, unit)


def _forget(evidence: Evidence, unit: LedgerUnit) -> str:
    with forgotten(evidence.warehouse.engine, unit.unit_id):
        evidence.storage.delete_folder(f"units/{unit.unit_id}")
    planned_for = "its interval" if unit.interval is not None else f"the replay {unit.replay!r}"
    return (
        f"dropped from the ledger: once {planned_for} has no unfinished unit, the next run plans the unit's pairs again"
    )


def _delete(evidence: Evidence, unit: LedgerUnit, path: str) -> str:
    with ownership.alone_with(evidence.warehouse.engine, unit.unit_id):
        evidence.storage.delete(path)
    return "deleted: the next run writes the file again"
