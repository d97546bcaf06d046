"""Late shards arrive after their interval's list was frozen. The next run of any interval takes them, exactly once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import shard_list
from capsfusion_tasks.staging import summaries
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.opened import check, interval_tasks
from tests.tasks import place as places
from tests.tasks.place import DAY, Place, pair, paired, write
from tests.upkeep.conftest import run_day

DAYS = [*places.DAYS, Interval(start=places.DAYS[1].end, end=places.DAYS[1].end + timedelta(days=1))]
LATE = ["raw/late.parquet", "coco/late.parquet"]


def listed(settings: Settings, interval: Interval) -> list[str]:
    return [shard.path for shard in interval_tasks.discover(settings, interval)]


def add_late_shards(place: Place) -> None:
    """Add a shard to each side, with a time on the first day. A multipart upload or a late push can cause this."""
    write(place.folder / LATE[0], range(-4, 0))
    write(place.folder / LATE[1], range(-4, 0), caption="a kite in the sky", text="red kite")


def late_shards(settings: Settings) -> list[tuple[str, str]]:
    query = "select side, adopted_by from shards where adopted_by is not null order by side"
    with open_warehouse(settings) as warehouse:
        return [(row["side"], row["adopted_by"]) for row in execute_sql(warehouse, query).to_pylist()]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_next_run_takes_them_whatever_its_interval_and_no_other_run_does(
    place: Place, order: tuple[int, int]
) -> None:
    settings = place.settings()
    first = listed(settings, DAY)
    add_late_shards(place)
    # A rerun of the first day has the same list as before: it does not take the late shards.
    assert listed(settings, DAY) == first
    assert listed(settings, DAYS[order[0]]) == ["late.parquet"] * 2
    assert listed(settings, DAYS[order[1]]) == []
    assert listed(settings, DAYS[order[0]]) == ["late.parquet"] * 2
    assert late_shards(settings) == [(side, DAYS[order[0]].key) for side in ("laion_2b", "laion_coco")]
    assert check(settings, sources=True).findings == []


def test_of_runs_at_the_same_time_one_takes_them(place: Place) -> None:
    settings = place.settings()
    listed(settings, DAY)
    add_late_shards(place)
    with ThreadPoolExecutor(2) as runs:
        found = list(runs.map(lambda day: listed(settings, day), DAYS[1:]))
    assert sorted(path for paths in found for path in paths) == ["late.parquet"] * 2


def test_their_captions_are_in_the_table_once(place: Place) -> None:
    settings = place.settings()
    run_day(settings, DAY)
    before = rows(settings)
    add_late_shards(place)
    for day in (DAYS[1], DAY, DAYS[2], DAYS[1]):
        run_day(settings, day)
    fresh = place.settings("another")
    pair(fresh)
    assert rows(settings) == len(paired(fresh)) > before


def rows(settings: Settings) -> int:
    query = "select (select count(*) from fused_captions) + (select count(*) from rejected_captions) as rows"
    with open_warehouse(settings) as warehouse:
        return int(execute_sql(warehouse, query).to_pylist()[0]["rows"])


def test_a_list_that_is_made_longer_leaves_what_another_run_has_taken(place: Place) -> None:
    settings = place.settings()
    first = listed(settings, DAY)
    add_late_shards(place)
    listed(settings, DAYS[1])
    assert [shard.path for shard in interval_tasks.discover(settings, DAY, relist=True)] == first


def test_shards_of_a_day_that_was_never_run_wait_for_its_run(place: Place) -> None:
    settings = place.settings()
    assert listed(settings, DAYS[2]) == []
    assert listed(settings, DAY) != []


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_shard_of_a_day_that_had_none_goes_to_the_next_run(place: Place, order: tuple[int, int]) -> None:
    settings = place.settings()
    assert listed(settings, DAYS[1]) == []
    for path in LATE:
        write(place.folder / path, range(-4, 0), DAYS[1], caption="a kite in the sky" if "coco" in path else None)
    assert {finding.rule for finding in check(settings, sources=True, safe_age=timedelta(0)).findings} == {"shard-late"}
    assert listed(settings, DAYS[order[0]]) == ["late.parquet"] * 2
    assert listed(settings, DAYS[order[1]]) == []
    assert listed(settings, DAYS[order[0]]) == ["late.parquet"] * 2
    assert check(settings, sources=True, safe_age=timedelta(0)).findings == []


def test_shards_of_a_source_that_was_not_listed_then_are_not_late(place: Place) -> None:
    listed(place.settings(), DAY)
    assert listed(place.settings(laion2b="other"), DAYS[1]) == []


def test_days_without_a_run_between_two_runs_are_found(place: Place) -> None:
    settings = place.settings()
    before = Interval(start=DAY.start - timedelta(days=1), end=DAY.start)
    for name, day in [("before", before), ("second", DAYS[1]), ("third", DAYS[2])]:
        write(place.folder / f"raw/{name}.parquet", range(-4, 0), day)
    write(place.folder / "coco/second.parquet", range(-4, 0), DAYS[1], caption="a kite in the sky", text="red kite")
    assert listed(settings, DAY)
    assert listed(settings, DAYS[2]) == ["third.parquet"]
    # The second day is missing: the DAG was paused, for example. The day before the first run is not.
    [missed] = check(settings, sources=True).findings
    assert (missed.rule, missed.where) == ("interval-missed", "2026-11-11 00:00 to 2026-11-12 00:00")
    assert missed.what == "shards arrived in this time (laion_2b: 1, laion_coco: 1), but no run has listed them"
    assert "Missing Runs" in missed.mend
    assert DAYS[1].command in missed.mend
    assert listed(settings, DAYS[1]) == ["second.parquet"] * 2
    assert check(settings, sources=True).findings == []


def test_a_day_opens_the_lists_that_changed_since_the_last_summary(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "_WORTH_WRITING", 1)
    settings = place.settings()
    storage = Storage(settings.staging_uri)
    first = listed(settings, DAY)
    add_late_shards(place)
    listed(settings, DAYS[1])
    for change in (settings.home / "staging/summaries/lists/changes").iterdir():
        os.utime(change, times=(0, 0))
    opened: list[Interval] = []
    read = shard_list.read
    monkeypatch.setattr(shard_list, "read", lambda day, storage: opened.append(day) or read(day, storage))
    for _ in range(2):
        others = shard_list.lists_of_others(DAYS[2], storage)
        assert [len(others[day].shard_ids) for day in DAYS[:2]] == [len(first), 2]
        assert sorted(day.key for day in opened) == [DAY.key, DAYS[1].key]
    write(place.folder / "raw/later.parquet", range(-4, 0))
    interval_tasks.discover(settings, DAY, relist=True)
    opened.clear()
    assert len(shard_list.lists_of_others(DAYS[2], storage)[DAY].shard_ids) == len(first) + 1
    assert opened == [DAY]
