"""The tables accept valid rows, and their constraints refuse invalid rows."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from capsfusion_tasks.schemas import VALIDATED
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.provenance import PROVENANCE
from capsfusion_tasks.warehouse.schema import SCHEMA
from tests.warehouse.conftest import plan


def test_the_view_has_every_column_of_accepted_captions(connection: Connection) -> None:
    found = [column["name"] for column in inspect(connection).get_columns("captions", SCHEMA)]
    assert found == [*fused_captions.columns.keys(), *PROVENANCE]


def test_the_caption_tables_hold_every_validated_column() -> None:
    ours = {"fusion_id", "unit_id", "dag_run_id", "loaded_at"}
    assert set(rejected_captions.columns.keys()) == {*VALIDATED.names, "other_beams"} | ours
    assert set(fused_captions.columns.keys()) == {*VALIDATED.names, "beam", "rescued_from"} - {"reasons"} | ours


@pytest.mark.parametrize(
    "counts", ["accepted = 3, rejected = 3", "accepted = 10, rejected = null", "accepted = null, rejected = null"]
)
def test_a_loaded_unit_must_add_up(warehouse: Warehouse, connection: Connection, counts: str) -> None:
    plan(warehouse, ("u1", 10))
    with pytest.raises(IntegrityError, match="work_units_rows_add_up_check"):
        connection.execute(text(f"update capsfusion.work_units set state = 'loaded', {counts}"))
    connection.execute(text("update capsfusion.work_units set state = 'loaded', accepted = 4, rejected = 6"))


@pytest.mark.parametrize("table", ["shards", "work_units"])
def test_an_unknown_state_is_refused(warehouse: Warehouse, connection: Connection, table: str) -> None:
    plan(warehouse, ("u1", 10))
    connection.execute(
        text(
            "insert into capsfusion.shards (source, path, etag, shard_id, side, size_bytes, arrived_at)"
            " values ('s', 'p', 'e', 'x', 'laion_2b', 1, now())"
        )
    )
    with pytest.raises(IntegrityError, match=f"{table}_state_check"):
        connection.execute(text(f"update capsfusion.{table} set state = 'lost'"))
