"""Tests the discover and pull stages with remote sources and a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.opened import interval_tasks
from tests.shards.web_server import Fault, File, Hub, WebServer

NOW = datetime.now(UTC)
TODAY = Interval(start=NOW - timedelta(days=1), end=NOW + timedelta(days=1))
SIDES = {"laion2b": "laion-2b", "laion_coco": "laion-coco"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "shards"
    write_sample_data(folder, rows_per_day=20, days=1)
    return folder


def ledger(settings: Settings) -> list[dict[str, Any]]:
    with open_warehouse(settings) as warehouse:
        return list(execute_sql(warehouse, "select path, state, rows, error from shards order by path").to_pylist())


def pull_all(settings: Settings) -> list[dict[str, Any]]:
    return [interval_tasks.pull(settings, shard) for shard in interval_tasks.discover(settings, TODAY)]


def joined(settings: Settings, interval: Interval) -> int:
    """Join all buckets of the interval. Returns the number of pairs."""
    return sum(
        interval_tasks.pair(settings, interval, group)["pairs"] for group in interval_tasks.bucket_groups(settings)
    )


@pytest.fixture
def from_disk(sample: Path, tmp_path: Path, warehouse_url: str) -> Settings:
    sources = {name: str(sample / folder) for name, folder in SIDES.items()}
    return load_settings(**sources, home=tmp_path, warehouse_url=warehouse_url, scratch=tmp_path / "scratch")


@pytest.mark.slow
def test_from_s3_into_s3_nothing_stays_on_the_disk(
    sample: Path, s3_bucket: str, from_disk: Settings, tmp_path: Path
) -> None:
    files = sorted(sample.rglob("*.parquet"))
    for file in files:
        boto3.client("s3").upload_file(
            str(file), s3_bucket.removeprefix("s3://"), f"stages/{file.relative_to(sample).as_posix()}"
        )
    remote = {name: f"{s3_bucket}/stages/{folder}" for name, folder in SIDES.items()}
    settings = from_disk.model_copy(update={**remote, "staging": f"{s3_bucket}/stages/staging"})
    pulled = pull_all(settings)
    assert len(pulled) == len(files)
    assert sum(shard["rows"] for shard in pulled) > 40
    assert [row["state"] for row in ledger(settings)] == ["pulled"] * len(files)
    assert joined(settings, TODAY) == 20
    storage = Storage(settings.staging_uri)
    assert storage.exists(layout.discovered(TODAY))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_from_the_hub(sample: Path, hub: Hub, from_disk: Settings) -> None:
    for folder in SIDES.values():
        files = {file.name: file.read_bytes() for file in (sample / folder).rglob("*.parquet")}
        hub.commit(f"laion/{folder}", NOW, files)
    remote = {name: f"hf://datasets/laion/{folder}" for name, folder in SIDES.items()}
    settings = from_disk.model_copy(update=remote)
    first = pull_all(settings)
    assert joined(settings, TODAY) == 20
    hub.requests.clear()
    assert pull_all(settings) == first
    assert not [request for request in hub.requests if "/resolve/" in request.path], (
        "what is pulled is not fetched again"
    )
    assert list(settings.scratch_folder.iterdir()) == []


def test_a_shard_that_cannot_be_fetched_is_in_the_ledger_until_it_can(
    sample: Path, web: WebServer, from_disk: Settings
) -> None:
    name = "a.parquet"
    content = next((sample / "laion-2b").rglob("*.parquet")).read_bytes()
    web.files = {"/list.txt": File(name.encode()), f"/{name}": File(content, arrived=NOW), "/none.txt": File(b"")}
    settings = from_disk.model_copy(update={"laion2b": f"{web.url}/list.txt", "laion_coco": f"{web.url}/none.txt"})
    (shard,) = interval_tasks.discover(settings, TODAY)
    web.faults[f"/{name}!"] = [Fault(503)]
    with pytest.raises(NotReadyError, match="HTTP 503"):
        interval_tasks.pull(settings, shard)
    (row,) = ledger(settings)
    assert row["state"] == "failed"
    assert "HTTP 503 (try 6 of 6): try again later" in row["error"]
    web.faults = {f"/{name}": [Fault(403)]}
    with pytest.raises(InputError, match="HTTP 403"):
        interval_tasks.pull(settings, shard)
    interval_tasks.pull(settings, shard)
    (row,) = ledger(settings)
    assert (row["state"], row["error"]) == ("pulled", None)
