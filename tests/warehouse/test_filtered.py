"""Tests replays and exports of the captions that match a filter of the captions view."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.export import export_filtered
from capsfusion_tasks.warehouse import quarantine
from capsfusion_tasks.warehouse.connection import Warehouse
from tests.warehouse.test_browse import FILTERS, Meets, filled, pages  # noqa: F401

EXPORTED = [each for each in FILTERS if each[0].of_accepted and each[0].fusion_id in (None, "f1")]


@pytest.mark.parametrize(("wanted", "meets"), [each for each in FILTERS if each[0].of_rejected])
def test_a_replay_takes_the_rejected_captions_of_a_filter(
    filled: Warehouse,  # noqa: F811
    wanted: CaptionFilter,
    meets: Meets,
) -> None:
    shown = {
        row.pair_id.bytes
        for page in pages(filled, wanted, 100)
        for row in page
        if row.reasons and row.fusion_id == "f1"
    }
    replay = Replay(name="r", fusion_id="f1", filter=wanted)
    with filled.engine.connect() as connection:
        assert quarantine.matching(connection, replay) == len(shown)
        assert quarantine.has_failed(connection, replay) is False
    taken = quarantine.rejected_pairs(filled, replay, untried_under=None, not_of=(), most=None)
    assert {pair_id for table in taken for pair_id in table["pair_id"].to_pylist()} == shown


@pytest.mark.parametrize(("wanted", "meets"), EXPORTED)
def test_an_export_has_the_accepted_captions_of_a_filter(
    filled: Warehouse,  # noqa: F811
    wanted: CaptionFilter,
    meets: Meets,
    tmp_path: Path,
) -> None:
    wanted = wanted.model_copy(update={"fusion_id": wanted.fusion_id or "f2"})
    shown = [row.capsfusion for page in pages(filled, wanted, 100) for row in page if row.reasons is None]
    done = export_filtered(filled, wanted, str(tmp_path / "out"), tmp_path, columns="pair_id", say=lambda _: None)
    files = sorted((tmp_path / "out" / "data").glob("*.parquet"))
    assert sorted(text for file in files for text in pq.read_table(file)["capsfusion"].to_pylist()) == sorted(shown)
    assert done == {"target": Storage(str(tmp_path / "out")).path(""), "rows": len(shown), "files": len(files)}


def test_a_filter_of_the_other_verdict_is_refused(filled: Warehouse, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="a replay needs rejected captions"):
        Replay(name="r", fusion_id="f1", filter=CaptionFilter(verdict="accepted"))
    with pytest.raises(InputError, match="an export has only accepted ones"):
        export_filtered(filled, CaptionFilter(reason="copy"), str(tmp_path), tmp_path)
    with pytest.raises(InputError, match=r'the Param "filter" has a wrong field day: .*yesterday'):
        CaptionFilter.of_param({"day": "yesterday"})
