"""Units that keep the other beams' captions are validated, loaded, reported, and replayed without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.planning.estimate import Budget
from capsfusion_tasks.schemas import FUSED_WITH_BEAMS, VALIDATED_WITH_BEAMS, Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.report import report_all
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.warehouse.connection import open_warehouse
from tests.opened import interval_tasks, replay, unit_tasks
from tests.tasks.test_replay import (
    DAY,
    assert_consistent,
    cut_off,
    finish_as_fused,
    good,
    numbers_in,
    rejections_of,
    rex,
    rows,
)

STRICT = RuleSettings(min_words=8)


@pytest.fixture
def settings(tiny_model: Path, warehouse_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        model=str(tiny_model), num_beams=3, keep_beams=True, buckets=1, warehouse_url=warehouse_url, home=tmp_path
    )


def short(number: int) -> str:
    return f"Rex the dog number {number} sits."


def captions(number: int) -> list[str]:
    """The captions of a pair's beam search, the best first. Some have a NUL, which PostgreSQL cannot store."""
    if number == 0:
        return [good(0), cut_off(0), short(0)]
    if number < 3:
        return [cut_off(number), f"Rex is \x00 \\u0000 on {number}", good(number)]
    return [cut_off(number), short(number), "\x00 the"]


def fuse(settings: Settings, unit: Unit) -> None:
    storage = Storage(settings.staging_uri)
    made = []
    for row, pair in enumerate(storage.read_table(layout.unit_pairs(unit.unit_id)).to_pylist()):
        best, *others = (
            {"capsfusion": caption, "finish_reason": "stop", "caption_tokens": 9 + place}
            for place, caption in enumerate(captions(pair["laion_hash"]))
        )
        digest = chunk_files.input_digest(pair["laion_2b"], pair["laion_coco"])
        made.append({"row": row, "input": digest, "prompt_tokens": 9, **best, "other_beams": others})
    unit_tasks.fuse_started(settings, unit)
    table = pa.Table.from_pylist(made, FUSED_WITH_BEAMS)
    path = f"{layout.chunks_folder(unit.unit_id)}/00000-by-hand.parquet"
    chunk_files.publish(storage, path, table, unit.fusion_id, Figures(rows=unit.rows, device_seconds=1.0))
    unit_tasks.fuse_finished(settings, unit)


def fused_day(settings: Settings) -> dict[str, Any]:
    storage = Storage(settings.staging_uri)
    storage.write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", rex(range(5)))
    [unit] = interval_tasks.plan(settings, DAY)
    fuse(settings, unit)
    counts: dict[str, Any] = unit_tasks.validate(settings, unit)
    assert storage.read_table(layout.unit_validated(unit.unit_id)).schema.equals(VALIDATED_WITH_BEAMS)
    unit_tasks.load(settings, unit)
    return counts


ACCEPTED = "select laion_hash, capsfusion, beam, rescued_from from captions order by 1"


def test_rescued_captions_are_loaded_counted_and_named_and_rejected_ones_keep_their_beams(settings: Settings) -> None:
    strict = settings.model_copy(update={"rules": STRICT})
    counts = fused_day(strict)
    assert (counts["accepted"], counts["rejected"], counts["rescued"]) == (3, 2, 2)
    assert rows(settings, ACCEPTED) == [
        {"laion_hash": 0, "capsfusion": good(0), "beam": 1, "rescued_from": None},
        *(
            {"laion_hash": n, "capsfusion": good(n), "beam": 3, "rescued_from": ["too_short", "truncated"]}
            for n in (1, 2)
        ),
    ]
    found = rows(settings, "select other_beams->1->>'capsfusion' as it from rejected_captions")
    assert found == [{"it": "\ufffd the"}] * 2
    best = "because the best beam's caption was rejected: 2 too_short, 2 truncated"
    line = f"rescued: 2 captions from other beams were accepted, {best}"
    assert line in interval_tasks.report(settings, DAY)["text"].splitlines()
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert line in report_all(connection).text.splitlines()

    # A replay with looser rules validates the kept beams again, and fuses nothing.
    units = replay.plan(settings, rejections_of(settings), budget=Budget(0))
    for unit in units:
        assert unit_tasks.is_fused(settings, unit)
        finish_as_fused(settings, unit)
    assert numbers_in(settings, "rejected_captions") == []
    assert rows(settings, ACCEPTED)[3:] == [
        {"laion_hash": n, "capsfusion": short(n), "beam": 2, "rescued_from": ["truncated"]} for n in (3, 4)
    ]
    moved = rows(settings, "select other_beams->0->>'capsfusion' as it from replayed_captions order by laion_hash")
    assert moved == [{"it": short(3)}, {"it": short(4)}], "history keeps what there was to choose from"
    report = replay.report(settings, rejections_of(settings))
    assert report["moved"] == 2
    best = "because the best beam's caption was rejected: 2 truncated"
    assert f"rescued: 2 captions from other beams were accepted, {best}" in report["text"].splitlines()
    assert_consistent(settings)
