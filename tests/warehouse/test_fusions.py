from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse import fusions, ledger_tables
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.fusions import EarlierFusion
from tests.warehouse.conftest import FUSION, plan

NEW = FUSION.model_copy(update={"fusion_id": "f2"})


def recorded_by_an_earlier_version(warehouse: Warehouse, **columns: Any) -> None:
    """Fusion f1 with a loaded unit of 5 rows. As in earlier versions, its spec has no decoding settings."""
    plan(warehouse, ("u1", 5))
    counts = {"state": "loaded", "accepted": 4, "rejected": 1, "loaded_at": func.now()}
    with warehouse.engine.begin() as connection:
        connection.execute(update(ledger_tables.work_units).values(**counts))
        connection.execute(update(ledger_tables.fusions).values(spec={"model": "demo"}, **columns))


def test_a_decoding_comes_back_as_it_was_decided(connection: Connection) -> None:
    fusions.register(connection, FUSION, {"prompt_template": "merge"})
    fusions.register(connection, FUSION.model_copy(update={"model": "another"}), {})
    assert fusions.decoding_of(connection, "f1") == FUSION
    spec = connection.scalars(select(ledger_tables.fusions.c.spec)).one()
    assert spec["prompt_template"] == "merge"


@pytest.mark.parametrize(
    "other",
    [{}, {"dtype": "bfloat16"}, {"eos_ids": (2, 3)}, {"num_beams": 1}, {"model_digest": "n"}, {"keep_beams": True}],
    ids=str,
)
def test_an_equal_decoding_takes_the_id_that_is_recorded_and_no_other_does(
    connection: Connection, other: dict[str, Any]
) -> None:
    fusions.register(connection, FUSION, {})
    asked = NEW.model_copy(update=other)
    assert fusions.as_recorded(connection, asked).fusion_id == ("f2" if other else "f1")


def test_what_an_earlier_version_recorded_in_full_keeps_its_id(warehouse: Warehouse, connection: Connection) -> None:
    recorded_by_an_earlier_version(warehouse)
    assert fusions.as_recorded(connection, NEW) == FUSION
    assert fusions.decoding_of(connection, "f1") == FUSION


@pytest.mark.parametrize("unknown", [{"dtype": "auto"}, {"model_digest": "both ends"}], ids=str)
def test_what_cannot_be_told_is_said_and_adopted_on_demand(
    warehouse: Warehouse, connection: Connection, unknown: dict[str, str]
) -> None:
    recorded_by_an_earlier_version(warehouse, **unknown)
    assert fusions.as_recorded(connection, NEW) == NEW
    assert fusions.earlier(connection, NEW) == [EarlierFusion("f1", 5)]
    with pytest.raises(InputError, match=r"recorded by an earlier version.*capsfusion adopt f1"):
        fusions.decoding_of(connection, "f1")
    fusions.adopt(connection, "f1", NEW)
    assert fusions.as_recorded(connection, NEW) == FUSION
    assert fusions.earlier(connection, NEW) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (NEW.model_copy(update={"num_beams": 1}), r"num_beams 3 \(now 1\)"),
        (NEW.model_copy(update={"dtype": "bfloat16"}), r"dtype float32 \(now bfloat16\)"),
    ],
)
def test_a_fusion_with_other_settings_is_not_adopted(
    warehouse: Warehouse, connection: Connection, asked: Decoding, said: str
) -> None:
    recorded_by_an_earlier_version(warehouse)
    assert fusions.earlier(connection, asked) == []
    with pytest.raises(InputError, match=said):
        fusions.adopt(connection, "f1", asked)
