from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Interval, load_settings
from capsfusion_tasks.shards.discovery import discover, open_source, sources
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.source import Source
from capsfusion_tasks.storage import Storage

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))


def arrive(file: Path, when: datetime, content: bytes = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (when.timestamp(), when.timestamp()))
    return file


@pytest.fixture
def both(tmp_path: Path) -> dict[Side, Source]:
    for name in ("raw", "coco"):
        (tmp_path / name).mkdir()
    return {"laion_2b": LocalSource(str(tmp_path / "raw")), "laion_coco": LocalSource(str(tmp_path / "coco"))}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "staging"))


def labels(shards: list[Shard]) -> list[str]:
    return [shard.label for shard in shards]


def test_a_shard_belongs_to_the_interval_in_which_it_arrived(
    tmp_path: Path, both: dict[Side, Source], storage: Storage
) -> None:
    arrive(tmp_path / "raw" / "before.parquet", START - timedelta(seconds=1))
    arrive(tmp_path / "raw" / "first.parquet", START)
    arrive(tmp_path / "coco" / "deep" / "last.parquet", START + timedelta(days=1, seconds=-1))
    arrive(tmp_path / "coco" / "after.parquet", START + timedelta(days=1))
    arrive(tmp_path / "raw" / "notes.txt", START)
    arrive(tmp_path / "raw" / ".being-copied.parquet", START)
    arrive(tmp_path / "raw" / "_temporary" / "0.parquet", START)
    assert labels(discover(both, DAY, storage)) == ["laion_2b/first.parquet", "laion_coco/deep/last.parquet"]


def test_the_list_is_frozen_when_shards_are_first_found(
    tmp_path: Path, both: dict[Side, Source], storage: Storage
) -> None:
    assert discover(both, DAY, storage) == []
    arrive(tmp_path / "raw" / "a.parquet", START)
    first = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "b.parquet", START)
    (tmp_path / "raw" / "a.parquet").unlink()
    assert discover(both, DAY, storage) == first
    assert labels(first) == ["laion_2b/a.parquet"]


def test_a_changed_file_is_a_new_shard(tmp_path: Path, both: dict[Side, Source], storage: Storage) -> None:
    arrive(tmp_path / "raw" / "a.parquet", START)
    (first,) = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "a.parquet", START + timedelta(days=1), b"longer")
    next_day = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
    (second,) = discover(both, next_day, storage)
    assert (first.path, first.etag) != (second.path, second.etag)
    assert first.shard_id != second.shard_id
    with (
        pytest.raises(InputError, match="has changed since it was discovered"),
        both["laion_2b"].open(first.path, first.etag),
    ):
        pass


def test_a_shard_that_is_gone_is_named(tmp_path: Path, both: dict[Side, Source]) -> None:
    with pytest.raises(InputError, match=r"raw/a\.parquet is gone"), both["laion_2b"].open("a.parquet", "1"):
        pass


def test_a_source_folder_that_does_not_exist_is_named(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(InputError, match=r"no folder .*/nowhere: create it"):
        discover({"laion_2b": LocalSource(str(tmp_path / "nowhere"))}, DAY, storage)


def test_sources_that_are_not_set_are_named() -> None:
    with pytest.raises(InputError, match="no source for laion_coco: set CAPSFUSION_LAION2B and CAPSFUSION_LAION_COCO"):
        sources(load_settings(laion2b="somewhere"))


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="sources are folders"):
        open_source("s3://bucket/laion")
