"""Pulled shards have marks (files that say how they were pulled). A run opens only marks that are new or changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.staging import summaries
from capsfusion_tasks.staging.storage import Storage
from tests.pairing.test_join import Area, raw


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
