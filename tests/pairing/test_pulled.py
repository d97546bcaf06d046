"""Pulled shards have marks (files that say how they were pulled). A run opens only marks that are new or changed."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.pairing.buckets import bucket_numbers
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.staging import summaries
from capsfusion_tasks.staging.storage import Storage
from tests.pairing.test_join import DAYS, Area, coco, raw


@pytest.fixture
def area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Area:
    """Four shards that were pulled long ago."""
    monkeypatch.setattr(summaries, "_WORTH_WRITING", 2)
    area = Area(tmp_path)
    for number in range(4):
        area.put("laion_2b", f"shard{number}", [raw(f"u{number}")])
    for change in (tmp_path / "staging/summaries/pulled/laion_2b/changes").iterdir():
        os.utime(change, times=(0, 0))
    return area


def opened(area: Area, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the marks that a run opens to check which rules the shards were pulled with."""
    paths: list[str] = []
    read = Storage.read_json
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "read_json", lambda self, path: paths.append(path) or read(self, path))
        require(area)
    return [path.rpartition("/")[2] for path in paths if path.startswith("buckets/")]


def require(area: Area, **changes: Any) -> None:
    rules = PullRules.of(area.settings.model_copy(update=changes))
    pulled.require_rules(area.storage, rules, but=set(), mend="Mend.")


def test_a_day_opens_the_marks_of_its_own_shards(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(opened(area, monkeypatch)) == 4
    for day in range(2):
        area.put("laion_2b", f"new{day}", [raw("u9")])
        assert opened(area, monkeypatch)[-1] == f"new{day}.json"
        assert "shard0.json" not in opened(area, monkeypatch)


def test_a_shard_that_changed_since_is_seen(area: Area) -> None:
    require(area)
    with pytest.raises(InputError, match=r"4 shards .* were pulled with"):
        require(area, punsafe_max=0.2)
    area.settings = area.settings.model_copy(update={"punsafe_max": 0.2})
    area.put("laion_2b", "shard1", [raw("u1")])
    with pytest.raises(InputError, match=r"3 shards .* were pulled with"):
        require(area)
    with pytest.raises(InputError, match=r"1 shards .*\(the first: laion_2b/shard1\) were pulled with"):
        require(area, punsafe_max=0.5)


NAMES = [f"u{number}" for number in range(9)]
# A URL for each of three buckets.
URLS = dict(zip(bucket_numbers(pa.chunked_array([NAMES]), 3).tolist(), NAMES, strict=True))
ROWS = [raw(URLS[0], punsafe=0.3), raw(URLS[1]), raw(URLS[2])]


def killed_pull(area: Area, name: str, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull that is killed when it writes the last bucket."""
    write = Storage.write_tables

    def killed(self: Storage, path: str, *arguments: Any) -> None:
        if "/00002/" in path:
            raise KeyboardInterrupt
        write(self, path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write_tables", killed)
        with pytest.raises(KeyboardInterrupt):
            area.put("laion_2b", name, rows)
    assert len(bucket_files(area, name)) == 2


def bucket_files(area: Area, name: str) -> list[str]:
    return [file.path for file in area.storage.tree("buckets/laion_2b") if file.path.endswith(f"/{name}.parquet")]


def test_a_removed_shard_leaves_no_file_of_its_killed_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area(tmp_path)
    killed_pull(area, "wrong", ROWS, monkeypatch)
    pulled.remove(area.storage, area.shard("laion_2b", "wrong"))
    assert [file.path for file in area.storage.tree("buckets/laion_2b")] == []
    found = area.join(DAYS[0], area.put("laion_coco", "b", [coco(url) for url in URLS.values()]))
    assert found == []


def test_the_files_of_a_shard_are_deleted_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    area, all_begun = Area(tmp_path), threading.Barrier(3)
    shard, delete = area.put("laion_2b", "a", ROWS), Storage.delete

    def meeting(self: Storage, path: str) -> None:
        if path.endswith(".parquet"):
            all_begun.wait(30)
        delete(self, path)

    monkeypatch.setattr(Storage, "delete", meeting)
    pulled.remove(area.storage, shard)
    assert bucket_files(area, "a") == []


def test_a_pull_with_other_rules_leaves_no_file_of_a_killed_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = Area(tmp_path)
    killed_pull(area, "a", ROWS, monkeypatch)
    # Joins may read what a first pull has written so far, but not with other rules.
    require(area)
    with pytest.raises(InputError, match=r"1 shards .*\(the first: laion_2b/a\) were pulled with"):
        require(area, punsafe_max=0.2)
    area.settings = area.settings.model_copy(update={"punsafe_max": 0.2})
    a = area.put("laion_2b", "a", ROWS)
    assert len(bucket_files(area, "a")) == 2
    require(area)
    pairs = area.join(DAYS[0], a, area.put("laion_coco", "b", [coco(url) for url in URLS.values()]))
    assert {pair["image_url"] for pair in pairs} == {URLS[1], URLS[2]}


def test_a_repeated_first_pull_does_not_stop_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area(tmp_path)
    killed_pull(area, "a", ROWS, monkeypatch)
    killed_pull(area, "a", ROWS, monkeypatch)
    require(area)
    area.put("laion_2b", "a", ROWS)
    assert pulled.read(area.storage, "laion_2b", "a") == {
        "rows": 3,
        "dropped": {},
        "columns": {"url": "URL", "text": "TEXT", "similarity": "similarity", "punsafe": "punsafe"},
        "buckets": {"00000": 1, "00001": 1, "00002": 1},
        "rules": asdict(PullRules.of(area.settings)),
    }
