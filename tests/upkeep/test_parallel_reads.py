"""A check reads files in parallel, and lists a folder instead of asking for each file: on S3, each question is slow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep import lost_pairs
from capsfusion_tasks.upkeep.listing import all_but_units
from capsfusion_tasks.warehouse.queries import Scope
from tests.opened import check, unit_tasks
from tests.upkeep.conftest import DAYS, Area

PATIENCE_SECONDS = 30  # only a check that reads one file after the other waits so long


def nothing(_: Area) -> None:
    """Leave the area as it is."""


def fuse_all(area: Area) -> None:
    for unit_id in area.storage.folders("units"):
        if area.one(f"select state from work_units where unit_id = '{unit_id}'") == "planned":
            area.fuse(unit_id)
            unit_tasks.validate(area.settings, area.unit(unit_id))


def lose_a_file_of_each_shard(area: Area) -> None:
    for mark in area.staging.glob("buckets/laion_2b/pulled/*.json"):
        sorted(area.staging.glob(f"buckets/laion_2b/0*/{mark.stem}.parquet"))[0].unlink()


# What is read → what prepares it, the method of Storage that reads it, and a part of the files' paths.
READS: dict[str, tuple[Callable[[Area], None], str, str]] = {
    "lists of shards": (nothing, "read_json", "shards.json"),
    "rows of the pairs of units": (nothing, "footer", "pairs.parquet"),
    "ids of the pairs of units": (nothing, "read_table", "pairs.parquet"),
    "chunks of units": (fuse_all, "read_table", "/chunks/"),
    "verdicts of units": (fuse_all, "footer", "validated.parquet"),
    "lost bucket files": (lose_a_file_of_each_shard, "_info", "buckets/laion_2b/0"),
}


@pytest.mark.parametrize("what", READS)
def test_files_of_several_units_or_shards_are_read_at_the_same_time(
    area: Area, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    prepare, name, part = READS[what]
    prepare(area)
    original, met, readers = getattr(Storage, name), threading.Event(), set()

    def read(storage: Storage, path: str, *arguments: Any, **options: Any) -> Any:
        if part in path:
            readers.add(path)
            if len(readers) > 1:
                met.set()
            assert met.wait(PATIENCE_SECONDS), f"{path} is read alone"
        return original(storage, path, *arguments, **options)

    monkeypatch.setattr(Storage, name, read)
    area.check()
    assert met.is_set()


def test_the_footers_of_several_shards_are_read_at_the_same_time(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    original, met, shards = Storage.footer, threading.Event(), set()

    def read(storage: Storage, path: str) -> tuple[dict[str, str], int]:
        if path.startswith("buckets/"):
            shards.add(path.rpartition("/")[2])
            if len(shards) > 1:
                met.set()
            assert met.wait(PATIENCE_SECONDS), f"{path} is not read together with a file of another shard"
        return original(storage, path)

    monkeypatch.setattr(Storage, "footer", read)
    assert area.check(footers=True).findings == []


def test_the_number_of_buckets_is_read_once_for_all_intervals(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = lost_pairs.bucket_count, []

    def counted(*arguments: Any) -> int:
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(lost_pairs, "bucket_count", counted)
    assert area.check().looked_at["intervals"] == len(DAYS)
    assert len(calls) == 1


def test_buckets_on_s3_are_listed_instead_of_asked_for_each_file(
    area: Area, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = area.copied_to(f"{s3_bucket}/listed")
    asked, original = [], Storage._info

    def info(storage: Storage, path: str) -> Any:
        asked.append(path)
        return original(storage, path)

    monkeypatch.setattr(Storage, "_info", info)
    both = Interval(start=DAYS[0].start, end=DAYS[1].end)
    assert check(remote, Scope(interval=both), safe_age=timedelta(0)).findings == []
    assert any("/pulled/" in path for path in asked)
    assert not [path for path in asked if path.endswith(".parquet")]


@pytest.mark.parametrize("bucket_files", [0, 2000])
def test_a_listing_has_each_file_once_with_and_without_a_request_for_each_bucket(
    tmp_path: Path, bucket_files: int
) -> None:
    storage = Storage(str(tmp_path))
    paths = ["buckets/config.json", "buckets/laion_2b/00000/a.parquet", "buckets/laion_2b/pulled/a.json"]
    paths += ["buckets/laion_coco/.b.x.unpublished", "runs/a/shards.json", "units/a/pairs.parquet", ".c.x.unpublished"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    listed = [file.path for file in all_but_units(storage, bucket_files)]
    assert sorted(listed) == sorted(path for path in paths if not path.startswith("units/"))
    assert all_but_units(Storage(str(tmp_path / "none")), bucket_files) == []
