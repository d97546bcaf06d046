"""The lineage of a caption: its source files and rows, its unit and run, its model."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, Table, select

from capsfusion_tasks.warehouse.tables import (
    fused_captions,
    fusions,
    rejected_captions,
    replayed_captions,
    shards,
    work_units,
)


def lineage(connection: Connection, pair_id: UUID, fusion_id: str) -> dict[str, Any] | None:
    """All columns of a caption; None where the warehouse does not have it.

    ``laion_2b_file``, ``laion_coco_file``, ``unit`` and ``fusion`` are rows of the ledger. ``others``: other captions
    of the same pair, newest first; those that a replay has replaced are among them.
    """
    versions = [
        version for table in (fused_captions, rejected_captions) for version in _versions(connection, table, pair_id)
    ]
    mine = next((version for version in versions if version["fusion_id"] == fusion_id), None)
    versions += _versions(connection, replayed_captions, pair_id)
    if mine is None:
        return None
    others = sorted((each for each in versions if each is not mine), key=lambda each: each["loaded_at"], reverse=True)
    return {
        **mine,
        "laion_2b_file": _one(connection, select(shards).where(shards.c.shard_id == mine["laion_2b_shard"])),
        "laion_coco_file": _one(connection, select(shards).where(shards.c.shard_id == mine["laion_coco_shard"])),
        "unit": _one(connection, select(work_units).where(work_units.c.unit_id == mine["unit_id"])),
        "fusion": _one(connection, select(fusions).where(fusions.c.fusion_id == fusion_id)),
        "others": others,
    }


def _versions(connection: Connection, captions: Table, pair_id: UUID) -> list[dict[str, Any]]:
    rows = connection.execute(select(captions).where(captions.c.pair_id == pair_id)).mappings()
    return [{"reasons": None, **row} for row in rows]


def _one(connection: Connection, statement: Select[Any]) -> dict[str, Any] | None:
    row = connection.execute(statement).mappings().first()
    return None if row is None else dict(row)
