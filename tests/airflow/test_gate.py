"""In a real Airflow, a unit that the gate rejects, and how to load it as the DAG's page describes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.demo.sample_data import FOLDER
from capsfusion_tasks.staging import layout
from tests import object_store
from tests.airflow.conftest import GATE_ROWS, Service

pytestmark = pytest.mark.timeout(600)

DAY = date(2026, 11, 17)
VERDICTS = "select unit_id, state, rows_in, accepted, rejected, error from work_units"


@pytest.fixture
def unusual_day(service: Service) -> Iterator[date]:
    """Pairs whose captions are always cut off, with any model. Puts the warehouse aside afterwards."""
    numbers = range(GATE_ROWS)
    urls = [f"https://gate.example.com/{number}.jpg" for number in numbers]
    raws = [" ".join(f"Rex-{number}-{word}" for word in range(50)) for number in numbers]
    arrives = datetime(DAY.year, DAY.month, DAY.day, 6, tzinfo=UTC).timestamp()
    for side, more in {"laion_2b": {}, "laion_coco": {"top_caption": ["A white wall."] * len(urls)}}.items():
        file = service.sources / FOLDER[side] / "gate.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"URL": urls, "TEXT": raws, **more}), file)
        os.utime(file, (arrives, arrives))
    service.upload_sources()
    yield DAY
    service.new_warehouse(keep="gate")


def test_a_unit_that_the_gate_keeps_out_is_loaded_once_its_rejections_are_accepted(
    service: Service, unusual_day: date
) -> None:
    of_day = f"{VERDICTS} where interval_start = '{unusual_day}T00:00:00Z'"
    assert service.backfill(unusual_day, unusual_day) == {str(unusual_day): "failed"}
    assert service.states(unusual_day, "fuse") == ["success"]
    assert service.states(unusual_day, "validate") == ["failed"]
    assert service.states(unusual_day, "load") == ["upstream_failed"]
    [kept_out] = service.query(of_day)
    assert (kept_out["state"], kept_out["accepted"]) == ("failed", None)
    assert "truncated" in kept_out["error"]
    assert kept_out["error"].splitlines()[0] in service.runs(unusual_day, unusual_day)[0]["note"]
    assert service.query("select 1 from rejected_captions where image_url like 'https://gate.%'") == []

    chunks = f"{service.staging}/{layout.chunks_folder(kept_out['unit_id'])}"
    fused = object_store.objects(chunks)
    assert fused
    accepting = {"reprocess": "failed", "conf": {"accept_rejections": True}}
    assert service.backfill(unusual_day, unusual_day, **accepting) == {str(unusual_day): "success"}
    [loaded] = service.query(of_day)
    assert (loaded["unit_id"], loaded["state"], loaded["error"]) == (kept_out["unit_id"], "loaded", None)
    assert object_store.objects(chunks) == fused, "it was fused once"
    assert loaded["rows_in"] == loaded["accepted"] + loaded["rejected"] == GATE_ROWS
    [quarantined] = service.query("select count(*) as n from rejected_captions where image_url like 'https://gate.%'")
    assert quarantined["n"] == loaded["rejected"] > GATE_ROWS / 4
