"""No run uses state that was made with other settings. A run makes new state, or refuses the old state."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.planning import forecast as _forecast
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards.discovery import discovered
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.validation.units import RULES_VERSION
from capsfusion_tasks.warehouse import ownership
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.opened import check, forecast, interval_tasks, unit_tasks
from tests.tasks.place import BOTH, DAY, DAYS, Place, in_units, pair, paired, write
from tests.upkeep.conftest import fuse_by_hand, plan_day

# Each case: a setting → its values in two runs of the same interval. The two runs find different pairs.
PULL_RULES: list[dict[str, tuple[Any, Any]]] = [
    {"punsafe_max": (0.5, 0.1)},
    {"punsafe_max": (0.1, 0.5)},
    {"pwatermark_max": (0.8, 0.1)},
    {"unscored": ("keep", "drop")},
    {"join_on": ("url_text", "url")},
]
SOURCES: list[dict[str, tuple[Any, Any]]] = [
    {"laion2b": ("raw", "other")},
    {"laion_coco": ("coco", "other-coco")},
    {"laion2b": ("raw", "none")},
    {"laion2b_include": (("a.*",), ("*.parquet",))},
    {"laion2b_exclude": ((), ("b.*",))},
    {"laion_coco_include": (("a.*",), ("*.parquet",))},
    {"laion_coco_exclude": ((), ("b.*",))},
]


def names(case: dict[str, tuple[Any, Any]]) -> str:
    return " ".join(f"{name} {before} to {after}" for name, (before, after) in case.items())


def loaded(settings: Settings, unit: Unit) -> None:
    fuse_by_hand(settings, unit)
    unit_tasks.validate(settings, unit)
    unit_tasks.load(settings, unit)


def urls(settings: Settings) -> list[str]:
    with open_warehouse(settings) as warehouse:
        sql = "select image_url from fused_captions union all select image_url from rejected_captions order by 1"
        return list(execute_sql(warehouse, sql).to_pydict()["image_url"])


def recorded_error(settings: Settings) -> str:
    """The error of the only failed unit in the ledger."""
    with open_warehouse(settings) as warehouse:
        [found] = execute_sql(warehouse, "select error from work_units where state = 'failed'").to_pydict()["error"]
        return str(found)


@pytest.mark.parametrize("case", PULL_RULES, ids=names)
def test_with_other_rules_shards_are_pulled_paired_and_planned_anew(
    place: Place, case: dict[str, tuple[Any, Any]]
) -> None:
    before, after = place.two(case)
    [old] = plan_day(before, DAY)
    expected = place.fresh(after)
    assert expected != paired(before)
    units = plan_day(after, DAY)
    assert paired(after) == expected
    assert in_units(after, units) == expected
    with pytest.raises(InputError, match="has no work unit"):  # the new plan has dropped this unit
        unit_tasks.fuse_started(before, old)


@pytest.mark.parametrize("case", SOURCES, ids=names)
def test_with_other_sources_shards_are_listed_anew_until_there_are_units(
    place: Place, case: dict[str, tuple[Any, Any]]
) -> None:
    before, after = place.two(case)
    pair(before)
    old = interval_tasks.discover(before, DAY)
    expected = place.fresh(after)
    assert expected != paired(before)
    assert in_units(after, plan_day(after, DAY)) == expected
    new = interval_tasks.discover(after, DAY)
    with pytest.raises(InputError, match=r"listed from .*1 units.*CAPSFUSION_STAGING.* --relist"):
        interval_tasks.discover(before, DAY)
    both = interval_tasks.discover(before, DAY, relist=True)
    assert {shard.shard_id for shard in both} == {shard.shard_id for shard in [*old, *new]}
    assert interval_tasks.discover(before, DAY) == both


def test_a_mistyped_source_removes_no_shard_that_was_pulled(place: Place) -> None:
    before = place.settings()
    pair(before)
    (place.folder / "empty").mkdir()
    for wrong, told in {"empty": "has no readable shard at all in .*/empty", "missing": "no folder .*/missing"}.items():
        with pytest.raises(InputError, match=told):
            interval_tasks.discover(place.settings(laion2b=wrong), DAY)
    assert paired(before)
    assert interval_tasks.check(before, DAY)["findings"] == []
    assert len(discovered(DAY, Storage(before.staging_uri))) == 4


def test_a_source_that_is_empty_while_another_changes_keeps_its_pulled_shards(place: Place) -> None:
    before = place.settings()
    pair(before)
    shutil.copytree(place.folder / "coco", place.folder / "moved")
    (place.folder / "raw").rename(place.folder / "unmounted")
    (place.folder / "raw").mkdir()
    with pytest.raises(InputError, match=r"laion_2b has no readable shard at all"):
        interval_tasks.discover(place.settings(laion_coco="moved"), DAY)
    assert len(discovered(DAY, Storage(before.staging_uri))) == 4


@pytest.mark.parametrize("case", [PULL_RULES[0], PULL_RULES[-1]], ids=names)
def test_units_that_are_begun_are_finished_with_their_settings_or_dropped(
    place: Place, case: dict[str, tuple[Any, Any]]
) -> None:
    before, after = place.two(case)
    units = plan_day(before, DAY)
    fuse_by_hand(before, units[0])
    [(name, values)] = case.items()
    then, now = (f"CAPSFUSION_{name.upper()}={value}" for value in values)
    with pytest.raises(InputError, match=f"{then}, now {now}.* Finish all of them: {then} capsfusion run .* --replan"):
        interval_tasks.discover(after, DAY)
    with pytest.raises(InputError, match=f"{then}, now {now}"):
        interval_tasks.plan(after, DAY)
    assert [unit.unit_id for unit in plan_day(before, DAY)] == [unit.unit_id for unit in units]
    shards = interval_tasks.discover(after, DAY, replan=True)
    for shard in shards:
        interval_tasks.pull(after, shard)
    for group in interval_tasks.bucket_groups(after):
        interval_tasks.pair(after, DAY, group)
    assert in_units(after, interval_tasks.plan(after, DAY, replan=True)) == place.fresh(after)


def test_a_begun_unit_that_a_repair_put_back_is_not_dropped(place: Place) -> None:
    before, after = place.two(PULL_RULES[0])
    [unit] = plan_day(before, DAY)
    fuse_by_hand(before, unit)
    with open_warehouse(before) as warehouse:
        ownership.put_back(warehouse.engine, unit.unit_id)
    with pytest.raises(InputError, match=r"1 units, 1 of them started.* --replan"):
        interval_tasks.plan(after, DAY)


def test_with_another_limit_of_a_url_pairs_are_made_anew_and_shards_are_not(place: Place) -> None:
    write(place.folder / "coco" / "more.parquet", range(3), caption="a second kite")
    before, after = (place.settings(join_on="url", url_pairs_max=most) for most in ("none", 1))
    units = plan_day(before, DAY)
    pulls = marks(before)
    then = "CAPSFUSION_URL_PAIRS_MAX=none, now CAPSFUSION_URL_PAIRS_MAX=1"
    with pytest.raises(InputError, match=f"the pairs in .* were made with {then}"):
        interval_tasks.plan(after, DAY)
    with pytest.raises(InputError, match=f"was planned with {then}"):
        unit_tasks.fuse_started(after, units[0])
    expected = place.fresh(after)
    assert expected < paired(before)
    assert in_units(after, plan_day(after, DAY)) == expected
    assert marks(after) == pulls
    assert interval_tasks.report(after, DAY)["left_out"].startswith("left out: 6 pairs of 3 URLs")


def test_units_that_somebody_is_at_work_on_are_not_dropped(place: Place) -> None:
    before, after = place.two(PULL_RULES[0])
    [unit] = plan_day(before, DAY)
    with (
        open_warehouse(before) as warehouse,
        ownership.at_work(warehouse.engine, unit.unit_id),
        pytest.raises(NotReadyError, match="another process is fusing unit"),
    ):
        plan_day(after, DAY)
    assert in_units(after, plan_day(after, DAY)) == place.fresh(after)


def test_another_number_of_buckets_is_refused(place: Place) -> None:
    pair(place.settings())
    with pytest.raises(InputError, match="split into 2 buckets, but CAPSFUSION_BUCKETS is 8"):
        interval_tasks.discover(place.settings(buckets=8), DAY)


def test_what_is_loaded_stays_and_the_rest_follows_the_new_settings(place: Place) -> None:
    before, after = place.settings(), place.settings(punsafe_max=0.4, unscored="drop")
    everything = plan_day(before, DAY, limit=2)
    loaded(before, everything[0])
    first = urls(before)
    for unit in plan_day(after, DAY):
        loaded(after, unit)
    kept = {f"http://img.example.org/{n}.jpg" for n in (0, 2)}  # images 1 and 3 have different texts on the two sides
    assert set(urls(after)) == {*first, *kept}
    assert check(after, pairs=True, footers=True, sources=True, safe_age=timedelta(0)).findings == []


def test_shards_of_other_intervals_are_refused_until_they_are_pulled_with_the_same_settings(place: Place) -> None:
    for side, caption in {"raw": None, "coco": "a kite"}.items():
        write(place.folder / side / "later.parquet", range(20, 24), DAYS[1], caption=caption)
    before, after = place.settings(), place.settings(punsafe_max=0.1)
    for day in DAYS:
        pair(before, day)
    with pytest.raises(InputError, match=r"CAPSFUSION_PUNSAFE_MAX=0\.5, now CAPSFUSION_PUNSAFE_MAX=0\.1") as refusal:
        interval_tasks.discover(after, DAYS[1])
    assert f"again: {BOTH.command}, or set CAPSFUSION_PUNSAFE_MAX=0.5" in str(refusal.value)
    pair(after, BOTH)
    assert paired(after, BOTH) == place.fresh(after, BOTH)
    for day in DAYS:
        pair(after, day)
        assert paired(after, day) <= paired(after, BOTH)


def test_a_task_that_is_run_again_alone_refuses_what_is_out_of_date(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = place.two(PULL_RULES[0])
    pair(before)
    forecast.estimate(before)
    assert "the pairs of 1 intervals were made with settings that have changed" not in caplog.text
    forecast.estimate(after)
    assert "the pairs of 1 intervals were made with settings that have changed since" in caplog.text
    assert f"To make these pairs again, run: {DAY.command}" in caplog.text
    pair(before, DAYS[1])
    forecast.estimate(after)
    # The advice names both days, because a run of only one of them would be refused.
    assert BOTH.command in caplog.text
    with pytest.raises(InputError, match="were pulled with"):
        interval_tasks.pair(after, DAY, [0])
    with pytest.raises(InputError, match=r"the pairs in .* were made with"):
        interval_tasks.plan(after, DAY)
    [unit] = interval_tasks.plan(before, DAY)
    with pytest.raises(InputError, match=r"was planned with .*\. To finish it, use CAPSFUSION_PUNSAFE_MAX=0\.5\. To"):
        unit_tasks.fuse_started(after, unit)
    with pytest.raises(InputError, match=r"4 of its 4 rows are not fused.* Run its fuse task again"):
        unit_tasks.validate(before, unit)
    assert "Run its fuse task again" in recorded_error(before)
    fuse_by_hand(before, unit)
    unit_tasks.validate(before, unit)
    with pytest.raises(InputError, match="was planned with"):
        unit_tasks.load(after, unit)
    assert "was planned with" in recorded_error(before)
    assert urls(before) == []
    stricter = before.model_copy(update={"rules": before.rules.model_copy(update={"min_words": 9})})
    with pytest.raises(InputError, match="CAPSFUSION_RULES__MIN_WORDS=3, now 9: run its validate task again"):
        unit_tasks.load(stricter, unit)
    assert recorded_error(before).endswith("run its validate task again")
    with monkeypatch.context() as newer:
        newer.setattr("capsfusion_tasks.validation.units.RULES_VERSION", RULES_VERSION + 1)
        with pytest.raises(InputError, match=f"with version {RULES_VERSION} of the rules, now"):
            unit_tasks.load(before, unit)
    unit_tasks.validate(stricter, unit, accept_rejections=True)
    assert unit_tasks.load(stricter, unit)["accepted"] == 0


def test_pairs_that_replaced_those_of_loaded_units_count_as_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.settings(punsafe_max=0.25)  # pairs the images 0, 2, 8
    after = place.settings(punsafe_max=0.5, unscored="drop")  # pairs the images 0, 2, 4
    for unit in plan_day(before, DAY):
        loaded(before, unit)

    def waiting_unread() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(_forecast, "count_new_pairs", lambda *_: pytest.fail("pairs were read"))
            rows: int = forecast.estimate(before).total.rows
            return rows

    assert waiting_unread() == 0
    pair(after)
    assert len(paired(after)) == len(urls(after)) == 3
    assert forecast.estimate(after).total.rows == 1
    [unit] = interval_tasks.plan(after, DAY)
    assert unit.rows == 1
    assert waiting_unread() == 1


@pytest.mark.parametrize(
    ("next_run", "refusal"),
    [
        (
            "before",
            pytest.raises(
                NotReadyError, match=r"1 shards .* are being pulled again, or were being pulled when a run was killed"
            ),
        ),
        # With the new settings, the error is that all four shards were pulled with the old ones.
        ("after", pytest.raises(InputError, match=r"4 shards .* were pulled with")),
    ],
    ids=["before", "after"],
)
def test_a_pull_that_is_interrupted_leaves_no_row_of_other_settings(
    place: Place, monkeypatch: pytest.MonkeyPatch, next_run: str, refusal: AbstractContextManager[Any]
) -> None:
    before, after = place.two(PULL_RULES[0])
    pair(before)
    with monkeypatch.context() as patched:
        patched.setattr(pulled, "delete_files", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pair(after)
    settings = {"before": before, "after": after}[next_run]
    with refusal:
        interval_tasks.pair(settings, DAY, [0])
    pair(settings)
    assert paired(settings) == place.fresh(settings)


def test_state_of_an_older_version_counts_as_made_with_the_settings_of_now(place: Place) -> None:
    before, after = place.two(PULL_RULES[0])
    units = plan_day(before, DAY)
    forget_settings(before)
    pulls = marks(before)
    assert [unit.unit_id for unit in plan_day(before, DAY)] == [unit.unit_id for unit in units]
    assert [mark | {"rules": None} for mark in marks(before)] == [mark | {"rules": None} for mark in pulls]
    assert all(mark["rules"]["punsafe_max"] == 0.5 for mark in marks(before))
    with pytest.raises(InputError, match="listed from"):
        interval_tasks.discover(place.settings(laion2b="other"), DAY)
    assert in_units(after, plan_day(after, DAY)) == place.fresh(after)


def marks(settings: Settings) -> list[dict[str, Any]]:
    storage = Storage(settings.staging_uri)
    return [
        storage.read_json(path)
        for side in ("laion_2b", "laion_coco")
        for path in storage.files(f"buckets/{side}/pulled")
    ]


def forget_settings(settings: Settings) -> None:
    """Remove the recorded settings from files in the staging area, because older versions did not record settings."""
    storage = Storage(settings.staging_uri)
    for file in storage.tree():
        if file.path.endswith(".parquet"):
            kept = {k: v for k, v in storage.footer(file.path)[0].items() if k == "capsfusion.buckets"}
            table = storage.read_table(file.path).replace_schema_metadata(None)
            storage.write_table(file.path, table, kept)
        elif "/pulled/" in file.path or file.path.endswith("shards.json"):
            value = storage.read_json(file.path)
            storage.write_json(file.path, {k: v for k, v in value.items() if k not in ("rules", "sources", "empty")})


def test_a_side_without_any_shard_is_told_and_not_frozen(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    (place.folder / "empty").mkdir()
    settings = place.settings(laion2b="empty")
    first = interval_tasks.discover(settings, DAY)
    assert {shard.side for shard in first} == {"laion_coco"}
    assert f"laion_2b has no shard at all in {place.folder}/empty (*.parquet)" in caplog.text
    write(place.folder / "empty" / "a.parquet", range(3))
    # laion_coco's list is frozen, because this side already had shards. Only relist=True lists its new shard.
    write(place.folder / "coco" / "c.parquet", range(3), caption="a kite")
    found = interval_tasks.discover(settings, DAY)
    assert [shard.path for shard in found if shard.side == "laion_2b"] == ["a.parquet"]
    assert [shard for shard in found if shard.side == "laion_coco"] == first
    assert "c.parquet" in [shard.path for shard in interval_tasks.discover(settings, DAY, relist=True)]
