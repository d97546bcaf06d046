"""Tests runs with results of img2dataset. Pairs whose image is gone are counted and left out. Loaded captions stay."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.context import open_context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.planning.forecast import known_images
from capsfusion_tasks.schemas import Shard, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import s3
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import image_results
from capsfusion_tasks.tasks.local_run import run_pipeline
from capsfusion_tasks.tasks.report import report_all
from capsfusion_tasks.upkeep.garbage import find_garbage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.invariants import forgotten
from capsfusion_tasks.warehouse.sessions import locked_session
from capsfusion_tasks.warehouse.sql import execute_sql
from tests import object_store
from tests.opened import check, collect, forecast, interval_tasks, unit_tasks
from tests.tasks.place import DAY, DAYS, Place, pair
from tests.upkeep.conftest import fuse_by_hand, plan_day, run_day
from tests.warehouse.conftest import in_threads


def url(number: int) -> str:
    return f"http://img.example.org/{number}.jpg"


def put(place: Place, name: str, said: dict[int, str | None], folder: str = "results") -> Path:
    file = place.folder / folder / f"{name}.parquet"
    file.parent.mkdir(exist_ok=True)
    statuses = pa.array(list(said.values()), pa.string())
    pq.write_table(pa.table({"url": [url(n) for n in said], "key": ["k"] * len(said), "status": statuses}), file)
    return file


GONE, THERE = "failed_to_download", "success"


def with_results(place: Place, folder: str = "results", **more: Any) -> Settings:
    return place.settings(image_results=str(place.folder / folder), **more)


def images(settings: Settings, units: list[Unit]) -> set[int]:
    storage = Storage(settings.staging_uri)
    tables = [storage.read_table(layout.unit_pairs(unit.unit_id), ["image_url"]) for unit in units]
    urls = [address for table in tables for address in table["image_url"].to_pylist()]
    assert len(urls) == len({*urls})
    return {*map(number_of, urls)}


def number_of(address: str) -> int:
    return int(address.rpartition("/")[2].removesuffix(".jpg"))


def before_reading(monkeypatch: pytest.MonkeyPatch, path: str, call: Callable[[int], None]) -> list[str]:
    """Call ``call`` before each read of ``path``, with the read's number (from 1). Returns a list of all paths read."""
    real, read = image_results.opened, []

    @contextmanager
    def opened(shard: Shard, *how: Any) -> Iterator[pa.NativeFile]:
        read.append(shard.path)
        if shard.path == path:
            call(read.count(path))
        with real(shard, *how) as stream:
            yield stream

    monkeypatch.setattr(image_results, "opened", opened)
    return read


def joined(settings: Settings) -> set[int]:
    """Pair the day. Returns the image numbers of all pairs, including pairs whose image is gone."""
    pair(settings)
    storage = Storage(settings.staging_uri)
    tables = [storage.read_table(path, ["image_url"]) for path in storage.files(layout.pairs_folder(DAY))]
    return {number_of(address) for table in tables for address in table["image_url"].to_pylist()}


def rows(settings: Settings, query: str) -> list[dict[str, Any]]:
    with open_warehouse(settings) as warehouse:
        return list(execute_sql(warehouse, query).to_pylist())


def test_what_is_gone_is_counted_and_left_out(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    put(place, "0", {})
    settings = with_results(place)
    everything = joined(settings)
    gone = sorted(everything)[:2]
    put(place, "0", {gone[0]: GONE, 77: GONE, gone[1]: None})
    put(place, "1", {gone[1]: GONE, sorted(everything)[2]: THERE, sorted(everything)[3]: "failed_to_resize"})
    before = forecast.estimate(settings)
    assert (before.gone.rows, before.total.rows) == (0, len(everything))
    assert "2 files of image results that are not read yet" in caplog.text
    caplog.clear()
    estimates: list[Any] = []
    units = plan_day(settings, DAY, on_estimate=estimates.append)
    assert images(settings, units) == everything - {*gone}
    [planned] = rows(settings, "select pairs, planned, gone from plans order by plan_id desc limit 1")
    assert planned == {"pairs": len(everything), "planned": len(everything) - 2, "gone": 2}
    [estimate], now = estimates, forecast.estimate(settings)
    assert estimate.gone == now.gone
    assert (now.gone.rows, now.work["paired, not planned"].rows) == (2, 0)
    assert now.as_dict()["gone"]["rows"] == 2
    assert now.as_dict()["gone"]["gpu_hours"]["median"] == pytest.approx(
        now.gone.tokens / now.rate.tokens_per_second.median / 3600
    )
    assert "left out, because their images are gone: 2 pairs, about" in now.text
    assert not [one for one in caplog.messages if "not read yet" in one or "no longer in the source" in one]
    report = interval_tasks.report(settings, DAY)
    assert (
        f"found: {len(everything)} pairs, 0 of them already fused or in other units, 2 left out because"
        in report["text"]
    )
    assert report["sides"]["image_results"] == {
        "shards": 2,
        "pulled": 2,
        "failed": 0,
        "rows": 6,
        "dropped": {"no_status": 1},
    }
    assert report["unplanned"] == 0
    checked = check(settings, pairs=True)
    assert [*checked.pairs.values()] == [
        {"in the warehouse": 0, "in units": len(everything) - 2, "image gone": 2}
        | dict.fromkeys(("image gone when planned", "left for a limit", "waiting for a run", "lost"), 0)
    ]
    assert checked.findings == []


def test_a_later_result_changes_nothing_that_is_planned_or_loaded(place: Place) -> None:
    put(place, "0", {1: THERE})
    settings = with_results(place, unit_tokens=1)
    first, *others = plan_day(settings, DAY)
    fuse_by_hand(settings, first)
    unit_tasks.validate(settings, first)
    unit_tasks.load(settings, first)
    loaded = "select * from (select pair_id, loaded_at from fused_captions union select pair_id, loaded_at from"
    loaded += " rejected_captions) stored"
    stored = rows(settings, loaded)
    put(place, "1", dict.fromkeys(range(9), GONE))
    assert plan_day(settings, DAY) == others
    for unit in others:
        fuse_by_hand(settings, unit)
        unit_tasks.validate(settings, unit)
        unit_tasks.load(settings, unit)
    assert plan_day(settings, DAY) == []
    assert plan_day(settings, DAY, existing="replace") == []
    assert [row for row in rows(settings, loaded) if row in stored] == stored
    assert forecast.estimate(settings).gone.rows == 0, "all pairs were fused before it was known"


def test_a_limit_that_all_living_pairs_reach_leaves_no_pair_to_replace(place: Place) -> None:
    settings = with_results(place, buckets=16)
    put(place, "0", {1: THERE})
    run_day(settings, DAY)
    storage = Storage(settings.staging_uri)
    tables = [storage.read_table(path, ["image_url"]) for path in storage.files(layout.pairs_folder(DAY))]
    *files, last = [table for table in tables if table.num_rows]
    put(place, "1", {number_of(address): GONE for address in last["image_url"].to_pylist()})
    living = sum(file.num_rows for file in files)
    [unit] = plan_day(settings, DAY, existing="replace", limit=living)
    report = interval_tasks.report(settings, DAY)["text"]
    assert "older captions" not in report
    assert f"{last.num_rows} left out because their images are gone" in report
    assert "at least" not in report
    with open_warehouse(settings) as warehouse, forgotten(warehouse.engine, unit.unit_id):
        pass
    plan_day(settings, DAY, existing="replace", limit=living - 1)
    report = interval_tasks.report(settings, DAY)["text"]
    assert f"left: at most {1 + last.num_rows} pairs that still have their older captions" in report


def test_a_success_that_comes_later_gives_the_pair_to_the_next_run(place: Place) -> None:
    put(place, "0", {4: GONE, 2: GONE})
    settings = with_results(place)
    run_day(settings, DAY)
    put(place, "1", {4: THERE})
    assert images(settings, plan_day(settings, DAY)) == {4}


@pytest.mark.parametrize("shell", ["no results", "results of another source", "keep", "a success came later"])
def test_a_check_knows_from_the_plan_that_pairs_were_left_out(place: Place, shell: str) -> None:
    put(place, "0", {4: GONE, 2: GONE})
    (place.folder / "others").mkdir()
    settings = with_results(place)
    run_day(settings, DAY)
    if shell == "a success came later":
        put(place, "1", {4: THERE})
        with open_context(settings) as context:
            image_results.read_image_results(context)
    other = {
        "no results": place.settings(),
        "results of another source": with_results(place, "others"),
        "keep": with_results(place, gone_images="keep"),
        "a success came later": settings,
    }[shell]
    left = 1 if other is settings else 2
    checked = check(other, pairs=True)
    assert checked.findings == []
    [counts] = checked.pairs.values()
    assert (counts["image gone when planned"], counts["image gone"], counts["lost"]) == (left, 2 - left, 0)
    assert f"{left} pairs left out because their images were gone when" in checked.advice[0]
    assert DAY.command in checked.advice[0]

    # Now three pairs are missing, but the plan left out only two. So the third pair is reported as lost.
    with open_warehouse(settings) as warehouse, warehouse.engine.begin() as connection:
        one = "(select pair_id from capsfusion.rejected_captions limit 1)"
        connection.exec_driver_sql(f"delete from capsfusion.rejected_captions where pair_id = {one}")
    checked = check(other, pairs=True)
    [lost] = [finding for finding in checked.findings if finding.rule == "pairs-lost"]
    assert lost.what.startswith("1 pairs of the interval are neither")
    [counts] = checked.pairs.values()
    assert (counts["image gone when planned"], counts["lost"]) == (left, 1)


def test_results_that_the_source_has_no_more_do_not_count(place: Place) -> None:
    file = put(place, "0", {4: GONE})
    put(place, "1", {2: GONE})
    settings = with_results(place)
    run_day(settings, DAY)
    file.unlink()
    assert images(settings, plan_day(settings, DAY)) == {4}
    assert [row["path"] for row in rows(settings, "select path from shards where side = 'image_results'")] == [
        "1.parquet"
    ]


def test_a_bad_file_of_results_fails_alone_until_it_is_replaced(place: Place) -> None:
    put(place, "0", {4: GONE})
    put(place, "2", {2: GONE})
    pq.write_table(pa.table({"url": ["u"], "state": ["success"]}), place.folder / "results" / "1.parquet")
    settings = with_results(place)
    assert not {2, 4} & images(settings, plan_day(settings, DAY))
    report = interval_tasks.report(settings, DAY)
    [failure] = report["failures"]
    assert failure.startswith("shard image_results/1.parquet failed: ")
    assert "has no column status" in failure
    assert failure.endswith("replace the file, or exclude it with CAPSFUSION_IMAGE_RESULTS_EXCLUDE")
    assert report["sides"]["image_results"]["pulled"] == 2
    [finding] = check(settings).findings
    assert (finding.rule, finding.where) == ("image-results-failed", "image_results/1.parquet")
    assert finding.what.endswith("replace the file, or exclude it with CAPSFUSION_IMAGE_RESULTS_EXCLUDE")
    assert check(settings.model_copy(update={"image_results": None})).findings == []
    put(place, "1", {8: GONE})
    plan_day(settings, DAY)
    assert interval_tasks.report(settings, DAY)["failures"] == []
    assert check(settings).findings == []


def test_what_cannot_be_read_at_the_moment_is_read_by_a_retry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "0", {4: GONE})
    put(place, "1", {2: GONE})
    settings = with_results(place)
    pair(settings)

    def unreachable_once(times: int) -> None:
        if times == 1:
            raise NotReadyError("no answer")

    read = before_reading(monkeypatch, "0.parquet", unreachable_once)
    with pytest.raises(NotReadyError, match="no answer"):
        interval_tasks.plan(settings, DAY)
    assert not {2, 4} & images(settings, interval_tasks.plan(settings, DAY))
    assert sorted(read) == ["0.parquet", "0.parquet", "1.parquet"], "what was read stays read"


@pytest.mark.parametrize("small_bytes", [0, 1 << 20], ids=["streamed", "whole"])
def test_several_batches_are_read_as_one_would_be(
    place: Place, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(image_results, "_SMALL_BYTES", small_bytes)
    monkeypatch.setattr(image_results, "BATCH_ROWS", 2)
    monkeypatch.setattr(image_results, "_READERS", 1)
    for name, said in enumerate([{4: GONE}, {2: GONE, 8: GONE}, {6: GONE}, {4: THERE}]):
        put(place, str(name), said)
    settings = with_results(place)
    units = plan_day(settings, DAY)
    assert images(settings, units) & {2, 4, 6, 8} == {4}
    assert len([path for path in Storage(settings.staging_uri).files("image_results") if path.endswith(".json")]) == 2


def test_files_on_s3_are_read_with_the_same_connections(
    place: Place, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        put(place, str(number), {number: GONE})
    address = f"{s3_bucket}/results of {place.folder.name}"
    object_store.upload(place.folder / "results", address)
    settings, clients = place.settings(image_results=address), []
    pair(settings)
    real = s3._new_client
    monkeypatch.setattr(s3, "_new_client", lambda: clients.append(real()) or clients[-1])
    monkeypatch.setattr(image_results, "_READERS", 1)
    with open_context(settings) as context:
        image_results.read_image_results(context)
    assert len(clients) == 2  # one to list the files, one to read them
    assert not {*range(4)} & images(settings, interval_tasks.plan(settings, DAY))


def test_results_that_come_day_by_day_stay_in_few_batches(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_results, "SMALL_BATCHES", 3)
    pairs = joined(place.settings())
    settings, batches = with_results(place), []
    for day in range(7):
        put(place, str(day), {day: GONE})
        with open_context(settings) as context:
            image_results.read_image_results(context)
        paths = Storage(settings.staging_uri).files("image_results")
        batches.append(len([path for path in paths if path.endswith(".json")]))
    assert batches == [1, 2, 3, 1, 2, 3, 1]
    assert images(settings, interval_tasks.plan(settings, DAY)) == pairs - set(range(7))


def test_an_interval_without_shards_reads_no_results(place: Place) -> None:
    put(place, "0", {4: GONE})
    settings = with_results(place)
    assert plan_day(settings, DAYS[1]) == []
    assert interval_tasks.report(settings, DAYS[1])["failures"] == []
    assert not {4} & images(settings, plan_day(settings, DAY))


def test_a_wrong_address_is_told_before_anything_is_pulled(place: Place) -> None:
    with pytest.raises(InputError, match=r"CAPSFUSION_IMAGE_RESULTS: no folder .*nowhere"):
        interval_tasks.discover(with_results(place, "nowhere"), DAY)


def test_a_source_that_is_empty_now_does_not_give_back_what_was_left_out(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = put(place, "0", {4: GONE}), put(place, "1", {2: GONE})
    settings = with_results(place)
    plan_day(settings, DAY)
    put(place, "2", {6: GONE})
    second.unlink()
    estimate = forecast.estimate(settings)
    assert estimate.gone.rows == 2
    assert "1 files of image results that are not read yet" in caplog.text
    assert "the estimate uses 1 files of image results that are no longer in the source" in caplog.text
    for file in (first, place.folder / "results" / "2.parquet"):
        file.rename(file.with_suffix(".csv"))  # no file matches now, as with a typo in a pattern
    for stage in (interval_tasks.discover, interval_tasks.plan):
        with pytest.raises(InputError, match=r"no file of image results in .*results.*2 files do not match"):
            stage(settings, DAY)


# Each case: a setting → its values in two runs, and the images whose pairs the second run leaves out.
CHANGES: list[tuple[dict[str, tuple[Any, Any]], set[int]]] = [
    ({"image_results": (None, "results")}, {4}),
    ({"gone_images": ("skip", "keep")}, set()),
]


def changed(place: Place, case: dict[str, tuple[Any, Any]]) -> tuple[Settings, Settings]:
    [(name, values)] = case.items()
    made = []
    for value in values:
        options = {"image_results": "results", name: value}
        if options["image_results"]:
            options["image_results"] = str(place.folder / options["image_results"])
        made.append(place.settings(**options))
    return made[0], made[1]


@pytest.mark.parametrize(("case", "gone"), CHANGES, ids=str)
def test_with_another_setting_units_are_planned_anew_or_finished(
    place: Place, case: dict[str, tuple[Any, Any]], gone: set[int]
) -> None:
    put(place, "0", {4: GONE})
    before, after = changed(place, case)
    everything = images(before, plan_day(before, DAY)) | {4}
    units = plan_day(after, DAY)
    assert images(after, units) == everything - gone
    fuse_by_hand(after, units[0])
    now = "skip" if gone else "keep"
    with pytest.raises(InputError, match=f"CAPSFUSION_GONE_IMAGES={now}, now .* --replan"):
        interval_tasks.plan(before, DAY)
    with pytest.raises(InputError, match=f"CAPSFUSION_GONE_IMAGES={now}"):
        unit_tasks.fuse_started(before, units[0])
    assert images(before, interval_tasks.plan(before, DAY, replan=True)) == everything - ({4} - gone)


def test_results_of_another_source_do_not_count(place: Place) -> None:
    put(place, "0", {4: GONE})
    put(place, "0", {2: GONE}, "others")
    first, second = with_results(place), with_results(place, "others")
    run_day(first, DAY)
    assert images(second, plan_day(second, DAY)) == {4}


def test_gc_deletes_results_of_another_source_and_unfinished_ones(place: Place) -> None:
    put(place, "0", {4: GONE})
    put(place, "0", {2: GONE}, "others")
    first, second = with_results(place), with_results(place, "others")
    for settings in (first, second):
        plan_day(settings, DAY)
    storage = Storage(second.staging_uri)
    storage.write_table("image_results/00000/killed.parquet", pa.table({"hash": [1]}))
    collect(place.settings(), safe_age=timedelta(0), delete=True)
    assert len([path for path in storage.files("image_results") if path.endswith(".json")]) == 2, "no source is set"
    assert not storage.exists("image_results/00000/killed.parquet")
    collect(second, safe_age=timedelta(0), delete=True)
    assert len([path for path in storage.files("image_results") if path.endswith(".json")]) == 1
    assert known_images(second, storage).batches[0].source["uri"] == second.image_results


def test_gc_keeps_results_that_a_run_completes_before_they_are_deleted(place: Place) -> None:
    put(place, "0", {4: GONE})
    settings = with_results(place)
    plan_day(settings, DAY)
    storage = Storage(settings.staging_uri)
    [batch] = known_images(settings, storage).batches
    mark = layout.image_results_batch(batch.name)
    storage.delete(mark)  # as while a run writes the batch
    with open_context(settings) as context:
        [garbage] = find_garbage(context, timedelta(0), timedelta(0))
        with locked_session(context.warehouse.engine) as session:
            session.lock("image_results", storage.root)
            with pytest.raises(NotReadyError, match="another process reads image results; try again when it has ended"):
                garbage.delete()
        batch.publish(storage)
        with pytest.raises(NotReadyError, match=f"the batch {batch.name} is complete now"):
            garbage.delete()
        assert len(known_images(settings, storage).of_bucket(batch.buckets[0]).gone) == 1
        storage.delete(mark)
        garbage.delete()
    assert not [file for file in storage.tree("image_results") if batch.name in file.path]


def test_a_file_that_is_excluded_does_not_count(place: Place) -> None:
    put(place, "0", {4: GONE})
    put(place, "1", {2: GONE})
    settings = with_results(place, image_results_exclude=("0.*",))
    assert images(settings, plan_day(settings, DAY)) & {2, 4} == {4}


def test_the_status_of_a_release_counts_where_no_result_says_otherwise(place: Place) -> None:
    for file in (place.folder / "raw").iterdir():
        table = pq.read_table(file)
        pq.write_table(table.append_column("status", pa.array([GONE] * table.num_rows)), file)
        os.utime(file, (DAY.start.timestamp(), DAY.start.timestamp()))
    put(place, "0", {4: THERE})
    skipping = place.settings(gone_images="skip")
    everything = joined(skipping)
    assert plan_day(skipping, DAY) == []
    assert forecast.estimate(skipping).gone.rows == len(everything)
    assert images(with_results(place), plan_day(with_results(place), DAY)) == {4}


def test_a_limit_leaves_living_pairs_for_later(place: Place) -> None:
    put(place, "0", {4: GONE})
    settings = with_results(place)
    [unit] = plan_day(settings, DAY, limit=1)
    assert unit.rows == 1
    report = interval_tasks.report(settings, DAY)
    [planned] = rows(settings, "select pairs, gone, planned, pairs - gone - planned as left from plans")
    everything = planned["pairs"]
    assert report["unplanned"] == everything - 2
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert "units, at least 1 left out because" in report_all(connection).text
    run_day(settings, DAY)
    run_day(settings, DAY)
    report = interval_tasks.report(settings, DAY)
    assert report["found"] == {"pairs": everything, "already_fused": 0, "left": 0, "gone": 1}
    assert report["summary"]["rows_in"] == everything - 1


def test_the_figures_add_up_if_a_limit_stops_planning_before_it_has_read_all_pairs(place: Place) -> None:
    settings = with_results(place, buckets=4)
    put(place, "0", {})
    everything = joined(settings)
    storage = Storage(settings.staging_uri)
    buckets = [storage.read_table(path, ["image_url"]) for path in storage.files(layout.pairs_folder(DAY))]
    *_, last = [[number_of(address) for address in one["image_url"].to_pylist()] for one in buckets if one.num_rows]
    put(place, "0", dict.fromkeys(last, GONE))
    [unit] = plan_day(settings, DAY, limit=1)
    assert unit.rows == 1
    [planned] = rows(settings, "select pairs, gone, pairs - already_fused - gone - planned as left from plans")
    assert planned == {"pairs": len(everything), "gone": 0, "left": len(everything) - 1}, "the limit came first"
    left = len(everything) - len(last) - 1
    for unit_ids in (None, [unit.unit_id]):
        report = interval_tasks.report(settings, DAY, unit_ids)
        assert report["found"] == {
            "pairs": len(everything),
            "already_fused": 0,
            "left": left,
            "gone": len(last),
        }
        assert report["unplanned"] == left > 0
        assert f"units, {len(last)} left out because their images are gone" in report["text"]


def test_the_commands_show_what_is_left_out(
    place: Place, one_process: None, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    put(place, "0", {4: GONE})
    settings = with_results(place, model=str(tiny_model), max_new_tokens=2)
    said: list[str] = []
    report = run_pipeline(settings, DAY, accept_rejections=True, say=said.append)
    assert report["failures"] == []
    assert "1 left out because their images are gone" in report["text"]
    assert any(line.startswith("plan: to fuse") and "images are gone: 1 pairs" in line for line in said)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(app, ["plan", "--format", "json"])
    assert json.loads(shown.stdout)["gone"]["rows"] == 1
    assert "1 left out because their images are gone" in CliRunner().invoke(app, ["status"]).stdout


def test_two_runs_at_the_same_time_read_a_file_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "0", {4: GONE})
    settings = with_results(place)
    joined(settings)
    read = before_reading(monkeypatch, "0.parquet", lambda times: time.sleep(0.3))

    def reading() -> None:
        with open_context(settings) as context:
            image_results.read_image_results(context)

    assert in_threads(reading, reading) == [None, None]
    assert read == ["0.parquet"]
