"""Looks up the lineage of a caption: source files, rows, unit, run, model. Also looks up the source files of a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, Select, Table, cast, null, select, union

from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.ledger_tables import fusions, shards, work_units


@dataclass(frozen=True)
class Lineage:
    """A caption with its shards, unit and fusion, each as a row of its table. None: the ledger lacks the row."""

    caption: RowMapping  # a row of fused_captions or rejected_captions; ``reasons`` is None for an accepted caption
    laion_2b_file: RowMapping | None  # a row of shards
    laion_coco_file: RowMapping | None
    unit: RowMapping | None  # a row of work_units
    fusion: RowMapping | None  # a row of fusions
    others: list[RowMapping]  # other captions of the pair, newest first, including those that a replay replaced

    def as_dict(self) -> dict[str, Any]:
        """The data for the page of a caption: the columns of ``caption``, and each other field under its name."""
        rows = {name: getattr(self, name) for name in ("laion_2b_file", "laion_coco_file", "unit", "fusion")}
        found = {name: None if row is None else dict(row) for name, row in rows.items()}
        return {**self.caption, **found, "others": [dict(other) for other in self.others]}


def lineage(connection: Connection, pair_id: UUID, fusion_id: str) -> Lineage | None:
    """The lineage of a caption. None if the warehouse does not have the caption."""
    versions = [
        version for table in (fused_captions, rejected_captions) for version in _versions(connection, table, pair_id)
    ]
    mine = next((version for version in versions if version["fusion_id"] == fusion_id), None)
    versions += _versions(connection, replayed_captions, pair_id)
    if mine is None:
        return None
    others = sorted((each for each in versions if each is not mine), key=lambda each: each["loaded_at"], reverse=True)
    return Lineage(
        caption=mine,
        laion_2b_file=_one(connection, select(shards).where(shards.c.shard_id == mine["laion_2b_shard"])),
        laion_coco_file=_one(connection, select(shards).where(shards.c.shard_id == mine["laion_coco_shard"])),
        unit=_one(connection, select(work_units).where(work_units.c.unit_id == mine["unit_id"])),
        fusion=_one(connection, select(fusions).where(fusions.c.fusion_id == fusion_id)),
        others=others,
    )


def _versions(connection: Connection, captions: Table, pair_id: UUID) -> list[RowMapping]:
    none = cast(null(), rejected_captions.c.reasons.type).label("reasons")
    columns = [captions] if "reasons" in captions.c else [captions, none]
    return [*connection.execute(select(*columns).where(captions.c.pair_id == pair_id)).mappings()]


def _one(connection: Connection, statement: Select[Any]) -> RowMapping | None:
    return connection.execute(statement).mappings().first()


@dataclass(frozen=True)
class ShardFile:
    """A source file that rows of a unit came from."""

    source: str
    path: str
    etag: str


def shards_of_unit(connection: Connection, unit_id: str) -> list[ShardFile]:
    """The source files of the unit's current captions (loaded and not replaced), sorted by source and path."""
    mine = [
        select(column).where(captions.c.unit_id == unit_id)
        for captions in (fused_captions, rejected_captions)
        for column in (captions.c.laion_2b_shard, captions.c.laion_coco_shard)
    ]
    found = select(shards.c.source, shards.c.path, shards.c.etag).where(shards.c.shard_id.in_(union(*mine)))
    return [ShardFile(*row) for row in connection.execute(found.order_by(shards.c.source, shards.c.path))]


def is_replay(connection: Connection, unit_id: str) -> bool:
    """Whether the unit belongs to a replay, which fuses the pairs of rejected captions again."""
    return bool(connection.scalar(select(work_units.c.replay.is_not(None)).where(work_units.c.unit_id == unit_id)))
