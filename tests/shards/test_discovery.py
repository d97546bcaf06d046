from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Interval, load_settings
from capsfusion_tasks.shards.discovery import SideSource, discover, discovered, open_source, sources
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.patterns import path_filter
from capsfusion_tasks.staging.storage import Storage

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))


def arrive(file: Path, when: datetime, content: bytes = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (when.timestamp(), when.timestamp()))
    return file


def side(folder: Path) -> SideSource:
    return SideSource(LocalSource(str(folder)), path_filter(["*.parquet"], []))


@pytest.fixture
def both(tmp_path: Path) -> dict[Side, SideSource]:
    for name in ("raw", "coco"):
        (tmp_path / name).mkdir()
    return {"laion_2b": side(tmp_path / "raw"), "laion_coco": side(tmp_path / "coco")}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "staging"))


def labels(shards: list[Shard]) -> list[str]:
    return [shard.label for shard in shards]


def test_a_shard_belongs_to_the_interval_in_which_it_arrived(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
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
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    assert discover(both, DAY, storage) == []
    arrive(tmp_path / "raw" / "a.parquet", START)
    first = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "b.parquet", START)
    (tmp_path / "raw" / "a.parquet").unlink()
    assert discover(both, DAY, storage) == first
    assert labels(first) == ["laion_2b/a.parquet"]


def test_a_changed_file_is_a_new_shard(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    arrive(tmp_path / "raw" / "a.parquet", START)
    (first,) = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "a.parquet", START + timedelta(days=1), b"longer")
    next_day = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
    (second,) = discover(both, next_day, storage)
    assert (first.path, first.etag) != (second.path, second.etag)
    assert first.shard_id != second.shard_id
    with (
        pytest.raises(InputError, match="has changed since it was discovered"),
        both["laion_2b"].source.open(first),
    ):
        pass


def test_a_shard_that_is_gone_is_named(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    file = arrive(tmp_path / "raw" / "a.parquet", START)
    (shard,) = discover(both, DAY, storage)
    file.unlink()
    with pytest.raises(InputError, match=r"raw/a\.parquet is gone"), both["laion_2b"].source.open(shard):
        pass


def test_a_source_folder_that_does_not_exist_is_named(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(InputError, match=r"no folder .*/nowhere: create it"):
        discover({"laion_2b": side(tmp_path / "nowhere")}, DAY, storage)


def test_the_list_of_an_interval_that_is_not_over_takes_in_what_still_arrives(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    now = datetime.now(UTC)
    today = Interval(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    arrive(tmp_path / "raw" / "a.parquet", now)
    assert labels(discover(both, today, storage)) == ["laion_2b/a.parquet"]
    (tmp_path / "raw" / "a.parquet").unlink()  # paired already, perhaps: it stays a shard of this interval
    arrive(tmp_path / "raw" / "b.parquet", now)
    found = ["laion_2b/a.parquet", "laion_2b/b.parquet"]
    assert labels(discover(both, today, storage)) == found
    assert labels(discovered(today, storage)) == found


def test_a_file_that_sorts_before_those_of_earlier_intervals_is_found(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    arrive(tmp_path / "raw" / "m.parquet", START)
    discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "a.parquet", DAY.end)
    next_day = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
    assert labels(discover(both, next_day, storage)) == ["laion_2b/a.parquet"]
    assert labels(discovered(DAY, storage)) == ["laion_2b/m.parquet"]


def test_what_discovery_did_not_find_has_no_shards(storage: Storage) -> None:
    assert discovered(DAY, storage) == []


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ('["*.parquet"]', "", ["a.parquet", "deep/b.parquet"]),
        ("*.parquet, *.pq", "", ["a.parquet", "c.pq", "deep/b.parquet"]),
        ("*.parquet", "deep/*", ["a.parquet"]),
        ("*.parquet", "b.*", ["a.parquet"]),
        ("deep/*.parquet", "", ["deep/b.parquet"]),
    ],
)
def test_patterns_say_which_files_are_shards(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, include: str, exclude: str, expected: list[str]
) -> None:
    for name in ("a.parquet", "c.pq", "deep/b.parquet"):
        arrive(tmp_path / "raw" / name, START)
    monkeypatch.setenv("CAPSFUSION_LAION2B_INCLUDE", include)
    monkeypatch.setenv("CAPSFUSION_LAION2B_EXCLUDE", exclude)
    settings = load_settings(laion2b=str(tmp_path / "raw"))
    found = discover({"laion_2b": sources(settings)["laion_2b"]}, DAY, storage)
    assert [shard.path for shard in found] == expected


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(laion2b_include=["a,b*", "c"], laion_coco="s3://bucket/x", scratch="/scratch")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read shards from gopher://x"):
        open_source("gopher://x", load_settings())
