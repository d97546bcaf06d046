"""Tests the validate stage with a ledger. A unit that the gate stops is not loaded. Users can inspect and accept it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import text

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.schemas import FUSED, PAIRS, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.thresholds import GateSettings
from capsfusion_tasks.warehouse.connection import open_warehouse
from tests.opened import unit_tasks
from tests.warehouse.conftest import plan

GOOD = "The red Mustang {n} is a car that stands in a street."
CUT = "The red Mustang {n} is a car that"


@pytest.fixture
def settings(warehouse_url: str, tmp_path: Path) -> Settings:
    return Settings(warehouse_url=warehouse_url, home=tmp_path, gate=GateSettings(min_rows=10))


def fused_unit(settings: Settings, unit_id: str, captions: list[str], first: int = 0) -> Unit:
    """Make a planned and fused unit with these captions. Its pairs are numbered from ``first``."""
    numbers = range(first, first + len(captions))
    pairs = [
        {field.name: None if field.nullable else f"{field.name} {n}" for field in PAIRS}
        | {"pair_id": n.to_bytes(16, "big"), "laion_2b": f"red Mustang {n}", "laion_coco": "A car in a street."}
        | {"laion_hash": n, "laion_2b_row": n, "laion_coco_row": n}
        for n in numbers
    ]
    fused: list[dict[str, Any]] = [
        {
            "row": row,
            "input": bytes(16),
            "capsfusion": caption.format(n=n),
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "caption_tokens": 1,
        }
        for row, (n, caption) in enumerate(zip(numbers, captions, strict=True))
    ]
    storage = Storage(settings.staging_uri)
    storage.write_table(layout.unit_pairs(unit_id), pa.Table.from_pylist(pairs, PAIRS))
    path = f"{layout.chunks_folder(unit_id)}/00000-a.parquet"
    chunks.publish(storage, path, pa.Table.from_pylist(fused, FUSED), "f1", Figures())
    with open_warehouse(settings) as warehouse:
        plan(warehouse, (unit_id, len(captions)))
    return Unit(unit_id=unit_id, fusion_id="f1", rows=len(captions), tokens=1000)


def query(settings: Settings, statement: str) -> list[Any]:
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        return list(connection.execute(text(statement)))


def test_what_the_gate_stops_is_told_published_and_not_loaded_until_it_is_accepted(settings: Settings) -> None:
    unit = fused_unit(settings, "u1", [GOOD] * 10 + [CUT] * 8 + ["", "\x1b[31mred"])
    with pytest.raises(InputError, match=r"^10 of 20 captions of unit u1 are rejected \(50.0%\), and .* 25%") as raised:
        unit_tasks.validate(settings, unit)
    message = str(raised.value)
    assert "accept_rejections" in message
    lines = [line.split(maxsplit=3) for line in message.splitlines()[1:]]
    assert lines[0] == ["truncated", "9", "45.00%", "The red Mustang 10 is a car that"]
    assert {line[0] for line in lines} >= {"truncated", "empty", "control_characters"}
    assert "\x1b" not in message
    assert Storage(settings.staging_uri).read_table(layout.unit_validated("u1")).num_rows == 20
    [(state, error)] = query(settings, "select state, error from capsfusion.work_units")
    assert (state, error) == ("failed", message)

    verdicts = unit_tasks.validate(settings, unit, accept_rejections=True)
    assert (verdicts["accepted"], verdicts["rejected"], verdicts["reasons"]["truncated"]) == (10, 10, 9)
    unit_tasks.load(settings, unit)
    assert query(settings, "select state, accepted, rejected, error from capsfusion.work_units") == [
        ("loaded", 10, 10, None)
    ]


def test_a_unit_is_held_against_those_that_were_loaded_before_it(settings: Settings) -> None:
    for number in range(3):
        unit = fused_unit(settings, f"u{number}", [GOOD] * 100, first=100 * number)
        unit_tasks.validate(settings, unit)
        unit_tasks.load(settings, unit)
    worse = fused_unit(settings, "u3", [GOOD] * 80 + [CUT] * 20, first=300)
    with pytest.raises(InputError, match=r"standard errors more than the 0.2% of the last 3 units"):
        unit_tasks.validate(settings, worse)
    storage, folder = Storage(settings.staging_uri), layout.chunks_folder("u3")
    captions = storage.read_table(f"{folder}/00000-a.parquet")
    chunks.publish(storage, f"{folder}/00001-b.parquet", captions, "f2", Figures())
    other_fusion = worse.model_copy(update={"fusion_id": "f2"})
    assert unit_tasks.validate(settings, other_fusion)["rejected"] == 20


def test_rows_that_are_not_fused_are_named_and_nothing_is_judged(settings: Settings) -> None:
    unit = fused_unit(settings, "u1", [GOOD] * 3).model_copy(update={"rows": 5})
    with pytest.raises(InputError, match=r"unit u1: 2 of its 5 rows are not fused: 4, 5\. Run its fuse task again"):
        unit_tasks.validate(settings, unit)
    assert not Storage(settings.staging_uri).exists(layout.unit_validated("u1"))


def test_a_caption_that_the_warehouse_has_for_many_others_is_rejected(settings: Settings) -> None:
    same = "A red Mustang is a car that stands in a street."
    for number, times in enumerate((3, 2)):
        unit = fused_unit(settings, f"u{number}", [same] * times + [GOOD] * 9, first=20 * number)
        unit_tasks.validate(settings, unit)
        unit_tasks.load(settings, unit)
    # The query for equal captions in the warehouse works for any text, even with a NUL character.
    unit = fused_unit(settings, "u2", [same, *[GOOD] * 9, "A red Mustang\tis \\N a \x00 car in a street."], first=40)
    assert unit_tasks.validate(settings, unit)["reasons"]["same_caption"] == 1
    validated = Storage(settings.staging_uri).read_table(layout.unit_validated("u2"))
    assert validated["reasons"].to_pylist()[0] == ["same_caption"]
