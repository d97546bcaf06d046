"""Backfills in a real Airflow: the same rows are loaded for any order of days, and broken tasks recover."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow.parquet as pq
import pytest
from openlineage.client.event_v2 import RunState
from playwright.sync_api import Browser, expect
from psycopg import sql

from capsfusion_tasks.demo.airflow_api import AirflowApiError
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER, SampleReport
from capsfusion_tasks.staging import layout
from capsfusion_tasks.tasks.dataset_names import file_name, table_name
from capsfusion_tasks.tasks.metrics import METRICS, REASON, kind_of
from capsfusion_tasks.warehouse.export_selection import PUBLISHED_COLUMNS
from tests import object_store
from tests.airflow.browser import (
    field_of,
    find_a_rejected_caption,
    follow_to_run,
    leave,
    logged_in,
    open_dag,
    open_run,
    start_backfill,
    trigger_dialog,
    watch_run,
)
from tests.airflow.conftest import PLANTED, WAREHOUSE, Service, wait_until
from tests.airflow.monitoring import read_events

pytestmark = pytest.mark.timeout(900)

FIRST, LAST = date(2026, 11, 10), date(2026, 11, 11)  # a third day would cost 11 tasks and test nothing new
EMPTY_DAY, BAD_DAY, LONG_DAY = date(2026, 11, 13), date(2026, 11, 14), date(2026, 11, 15)

# The columns to compare. Columns that say where a row came from are left out: if a pair is in two shards, either copy
# may be found first.
COLUMNS = (
    *("fusion_id", "image_url", "laion_2b", "laion_coco", "capsfusion", "laion_hash", "similarity", "punsafe"),
    *("pwatermark", "prompt_tokens", "caption_tokens"),
)
CAPTIONS = f"""
    select pair_id::text, '{{}}'::text[] as reasons, {", ".join(COLUMNS)} from fused_captions
    union all
    select pair_id::text, reasons, {", ".join(COLUMNS)} from rejected_captions
    order by 1
"""
UNITS = "select unit_id, state, rows_in, accepted, rejected, tries from work_units order by unit_id"


@pytest.fixture(scope="module")
def sample(service: Service) -> SampleReport:
    # Few shards, because each shard is a task.
    report = write_sample_data(service.sources, rows_per_day=16, days=2, shards_per_side_per_day=1)
    service.upload_sources()
    return report


@pytest.fixture(scope="module")
def in_order(service: Service, sample: SampleReport) -> list[dict[str, Any]]:
    """The captions after a backfill of the sample's days in order. Starts this backfill if no earlier test did."""
    if not service.query(f"select 1 from work_units where state = 'loaded' and interval_start = '{LAST}T00:00:00Z'"):
        states = service.backfill(FIRST, LAST, max_active_runs=1)
        assert states == {str(FIRST): "success", str(LAST): "success"}
    return service.query(CAPTIONS)


def test_a_user_backfills_days_and_follows_a_rejected_caption_to_its_run(
    service: Service, sample: SampleReport, chromium: Browser
) -> None:
    with logged_in(service, chromium, "light") as page:
        open_dag(page, "capsfusion")
        start_backfill(page, FIRST, LAST)
        dag = leave(page)
        service.wait_for_runs(FIRST, LAST)
        page.goto(dag)
        page.get_by_role("link", name="Runs", exact=True).click()
        for day in (FIRST, LAST):
            # A run is named after the end of its interval.
            watch_run(page, f"backfill__{day + timedelta(days=1)}", "Success")

        page.get_by_role("link", name="Captions", exact=True).click()
        caption = find_a_rejected_caption(page)
        run_id = caption.get_by_role("link", name="backfill__").inner_text()
        tab = follow_to_run(page, caption, run_id)
        [run] = [run for run in service.runs(FIRST, LAST) if run["dag_run_id"] == run_id]
        [unit] = service.query(f"select rows_in, accepted from work_units where dag_run_id = '{run_id}'")
        expect(tab.locator("#figures")).to_contain_text(f"Interval {run['data_interval_start'][:10]}")
        expect(tab.locator("#figures")).to_contain_text(f"{unit['accepted']} of {unit['rows_in']} (")
        open_run(page, service, "capsfusion", run_id)
        expect(page.locator("body")).to_contain_text(f"{unit['accepted']} accepted, ")
        expect(page.locator("body")).to_contain_text("(the backfill gave no Params)")
        page.goto(f"{service.api.url}/assets")
        page.get_by_role("link", name="fused_captions", exact=True).click()
        expect(page.locator(f"a[href*='{run_id}/tasks/announce']")).to_be_visible()
    # The user changed a Param in the backfill's form, but did not tick the box "Override parameters".
    assert {row["num_beams"] for row in service.query("select num_beams from fusions")} == {1}
    assert "findings (the backfill gave no Params)\n\n- To apply the Params of a backfill" in run["note"]
    assert "\n- Params: all at their defaults\n" in run["note"]


def test_a_backfill_fuses_what_the_sample_announces(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]]
) -> None:
    assert len(in_order) == sample.pairs
    assert len({row["pair_id"] for row in in_order}) == sample.pairs
    units = service.query(UNITS)
    assert units
    assert all(unit["state"] == "loaded" for unit in units)
    assert all(unit["rows_in"] == unit["accepted"] + unit["rejected"] for unit in units)
    assert sum(unit["rows_in"] for unit in units) == sample.pairs


def test_a_run_has_its_report_as_a_note_and_others_can_follow_it(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]]
) -> None:
    runs = service.runs(FIRST, LAST)
    headline = r"\d+ accepted, \d+ rejected, [\d.]+ captions/s, 0 findings( \(the backfill gave no Params\))?\n\n- "
    assert all(re.match(headline, run["note"]) for run in runs)
    for run in runs:
        assert f"\n- interval: {run['logical_date'][:10]}, the whole day (UTC)\n" in run["note"]
        end = r"\n- (check: nothing is wrong|… the log of the report task has the rest)\n\n"
        assert re.search(rf"{end}\[Captions and speed of this run\]\(/dags/capsfusion/runs/", run["note"]), run["note"]
    events = dict(asset_events(service))
    rows = [events[run["dag_run_id"]] for run in runs]
    assert [row["data_interval"][0][:10] for row in rows] == [run["logical_date"][:10] for run in runs]
    assert sum(row["rows_in"] for row in rows) == sample.pairs
    assert all(row["rows_in"] == row["accepted"] + row["rejected"] for row in rows)


def test_a_user_can_mark_a_run_while_the_scheduler_writes_its_first_note(
    service: Service, in_order: list[dict[str, Any]]
) -> None:
    [run] = service.runs(FIRST, FIRST)
    path = f"/dags/capsfusion/dagRuns/{run['dag_run_id']}"
    url = service.server.url("airflow").set(drivername="postgresql").render_as_string(hide_password=False)
    with ThreadPoolExecutor() as pool, psycopg.connect(url, autocommit=True) as scheduler:
        note = "delete from dag_run_note using dag_run where id = dag_run_id and run_id = %s returning dag_run_note.*"
        [values] = scheduler.execute(note, [run["dag_run_id"]]).fetchall()
        with scheduler.transaction():
            scheduler.execute("select 1 from dag_run where run_id = %s for update", [run["dag_run_id"]])
            scheduler.execute(f"insert into dag_run_note values ({', '.join(['%s'] * len(values))})", values)
            marked = pool.submit(service.api.request, "PATCH", path, {"state": "success"})
            waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = 'airflow'"
            wait_until("the API server waits", lambda: scheduler.execute(waiting).fetchall(), 60)
        assert marked.result()["note"] == run["note"]


def test_fuse_links_to_its_throughput_and_load_to_its_captions(
    service: Service, in_order: list[dict[str, Any]]
) -> None:
    run_id = service.runs(FIRST, FIRST)[0]["dag_run_id"]
    tasks = f"/dags/capsfusion/dagRuns/{run_id}/taskInstances"
    run, name = f"/dags/capsfusion/runs/{quote(run_id, safe='')}", quote(run_id, safe="")
    for task, links in {
        "fuse": {"Throughput of this run": f"{run}/plugin/captions-of-run"},
        "load": {"Captions of this run": f"/capsfusion/?view=captions&dag_run_id={name}"},
        "validate": {},
    }.items():
        assert service.api.request("GET", f"{tasks}/{task}/links", map_index=0)["extra_links"] == links


def test_openlineage_events_name_every_shard_and_table_with_rows_and_columns(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]]
) -> None:
    events = read_events(service.lineage, "capsfusion")
    told = [event for event in events if event.inputs]
    bucket, staging = service.bucket, service.staging.removeprefix(f"{service.bucket}/")
    buckets = {(bucket, f"{staging}/buckets/{side}") for side in ("laion_2b", "laion_coco")}
    shards = {
        file_name(row["source"], row["path"]) for row in service.query("select source, path from shards") if row["path"]
    }
    tables = {table_name(service.server.url(WAREHOUSE), f"{kind}_captions") for kind in ("fused", "rejected")}
    assert len(shards) == 4
    for task, read, written in (("pull", shards, buckets), ("load", shards | buckets, tables)):
        of_task = [event for event in told if event.job.name == f"capsfusion.{task}"]
        assert {(each.namespace, each.name) for event in of_task for each in event.inputs} == read, task
        assert {(each.namespace, each.name) for event in of_task for each in event.outputs} == written, task

    loads = [event for event in told if event.job.name == "capsfusion.load"]
    rows = [each.outputFacets["outputStatistics"]["rowCount"] for event in loads for each in event.outputs]
    assert sum(rows) == sample.pairs
    fused = next(each for each in loads[0].outputs if each.name.endswith("fused_captions"))
    from_columns = fused.facets["columnLineage"]["fields"]
    assert {field["field"] for field in from_columns["capsfusion"]["inputFields"]} == {"text", "synthetic"}
    assert {each["name"] for each in fused.facets["schema"]["fields"]} >= set(from_columns)
    known = {each["key"]: each["value"] for each in loads[0].run.facets["executionParameters"]["parameters"]}
    assert known["fusion_id"] == in_order[0]["fusion_id"]
    rejected = Counter(reason for row in in_order for reason in row["reasons"])
    tests = [test for event in loads for test in event.run.facets.get("test", {"tests": []})["tests"]]
    assert sum(int(test["actual"]) for test in tests) == rejected.total() > 0
    assert {test["name"] for test in tests} == set(rejected)

    # Our events have the run id of the task's own event. So OpenLineage merges all events of a task into one run.
    ended = {event.run.runId for event in events if event.eventType is RunState.COMPLETE}
    assert {event.run.runId for event in told} <= ended


def test_statsd_gets_the_figures_that_the_ledger_has(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]]
) -> None:
    got = service.statsd.named("airflow.capsfusion.")
    kinds = {"c": "counter", "g": "gauge", "ms": "timer"}
    sent = {name.removeprefix("airflow."): values for name, values in got.items()}
    assert {name: {kinds[kind] for _, kind in values} for name, values in sent.items()} == {
        name: {kind_of(name)} for name in sent
    }
    named = {f"{name.rpartition('.')[0]}.{REASON}" if name not in METRICS else name for name in sent}
    assert named == set(METRICS)
    total = {name: sum(value for value, _ in values) for name, values in sent.items()}
    assert total["capsfusion.fuse.rows"] == total["capsfusion.load.rows"] == sample.pairs
    accepted = [row for row in in_order if not row["reasons"]]
    assert total["capsfusion.validate.accepted"] == len(accepted)
    assert total["capsfusion.validate.rejected"] == sample.pairs - len(accepted)
    reasons = Counter(reason for row in in_order for reason in row["reasons"])
    assert all(total[f"capsfusion.validate.rejected.{reason}"] == rows for reason, rows in reasons.items())
    assert sent["capsfusion.queue.rows"][-1][0] == 0


def test_nothing_stays_on_the_disk_where_sources_and_staging_are_on_s3(
    service: Service, in_order: list[dict[str, Any]]
) -> None:
    assert any("/chunks/" in key for key in object_store.objects(service.staging))
    left = [path for path in service.folder.rglob("*.parquet") if service.sources not in path.parents]
    assert left == []
    assert [path for path in (service.folder / "scratch").rglob("*") if path.is_file()] == []


def test_the_pool_of_the_gpus_is_made_by_the_first_run(service: Service, in_order: list[dict[str, Any]]) -> None:
    assert service.api.request("GET", "/pools/gpu")["slots"] == 1


def test_the_demo_sets_the_slots_of_a_pool_that_exists_or_not(service: Service) -> None:
    for slots in (3, 2):
        service.api.set_pool("demo", slots)
        assert service.api.request("GET", "/pools/demo")["slots"] == slots


def test_the_same_day_again_changes_no_row_and_exports_what_is_there(
    service: Service, in_order: list[dict[str, Any]]
) -> None:
    loaded = "select pair_id, loaded_at, unit_id, dag_run_id from fused_captions order by pair_id"
    before, announced = (service.query(UNITS), service.query(loaded)), asset_events(service)
    assert set(service.states(FIRST, "export")) == {"skipped"}
    without_shards = FIRST - timedelta(days=1)
    states = service.backfill(without_shards, FIRST, conf={"export_to": str(service.folder / "captions")})
    assert states == {str(without_shards): "success", str(FIRST): "success"}
    assert service.states(without_shards, "export") == ["skipped"]
    assert (service.query(UNITS), service.query(loaded)) == before
    assert service.query(CAPTIONS) == in_order
    assert set(service.states(FIRST, "announce")) == {"skipped"}
    assert asset_events(service) == announced, "this run has brought nothing"
    note = service.runs(FIRST, FIRST)[0]["note"]
    head = r"nothing new to fuse, 0 findings\n\n- interval: 2026-11-10, the whole day \(UTC\)\n- `?Params: export_to /"
    assert re.match(head, note)
    assert re.search(r"\n- interval: \d+ accepted \+ \d+ rejected in all runs of the interval\n", note)
    [file] = (service.folder / "captions").glob("*/*/data/part-*.parquet")
    assert file.parents[1].name.startswith("20261110T")
    of_day = f"select {', '.join(PUBLISHED_COLUMNS)} from fused_captions join work_units using (unit_id)"
    accepted = service.query(f"{of_day} where interval_start = '{FIRST}T00:00:00Z'")
    assert sorted(pq.read_table(file, partitioning=None).to_pylist(), key=str) == sorted(accepted, key=str)


def test_a_run_over_its_budget_stops_before_any_gpu_work(service: Service, in_order: list[dict[str, Any]]) -> None:
    before = service.query(UNITS)
    states = service.backfill(FIRST, FIRST, conf={"existing": "replace", "max_gpu_hours": 0})
    assert set(states.values()) == {"failed"}
    assert service.query(UNITS) == before
    assert set(service.states(FIRST, "fuse")) == {"upstream_failed"}
    [plan] = [each for each in service.instances(FIRST) if each["task_id"] == "plan"]
    assert "GPU hours: " in log_of(service, plan)
    estimate = service.api.request(
        "GET", f"/dags/capsfusion/dagRuns/{plan['dag_run_id']}/taskInstances/plan/xcomEntries/estimate"
    )
    assert "gpu_hours" in str(estimate["value"])


def test_days_in_reverse_and_in_parallel_give_the_same_table(service: Service, in_order: list[dict[str, Any]]) -> None:
    service.new_warehouse(keep="in_order")
    states = service.backfill(FIRST, LAST, backwards=True, max_active_runs=3)
    assert set(states.values()) == {"success"}
    assert differences(in_order, service.query(CAPTIONS)) == []


@pytest.fixture(scope="module")
def bad_day(service: Service, sample: SampleReport, in_order: list[dict[str, Any]]) -> str:
    """Backfill BAD_DAY, which has a broken shard. Returns the state of its run."""
    good = [shard_on(service, sample, side, BAD_DAY, f"good-{side}.parquet") for side in FOLDER.values()]
    bad = good[0].with_name("broken.parquet")
    bad.write_bytes(good[0].read_bytes()[:-500])
    os.utime(bad, (good[0].stat().st_mtime,) * 2)
    service.upload_sources()
    return service.backfill(BAD_DAY, BAD_DAY)[str(BAD_DAY)]


def test_a_user_runs_a_single_day_which_has_no_shards_and_reads_which_days_have(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]], chromium: Browser
) -> None:
    announced = asset_events(service)
    with logged_in(service, chromium, "light") as page:
        open_dag(page, "capsfusion")
        dialog = trigger_dialog(page)
        day = field_of(dialog, "Day")
        expect(day).to_contain_text("In a single run: the day (UTC) whose shards the run handles.")
        expect(day).to_contain_text("for example 2026-11-10 if the logical date is 2026-11-11 08:00")
        day.locator("input").first.fill(str(EMPTY_DAY))
        dialog.get_by_role("button", name="Trigger", exact=True).click()
        expect(dialog).to_be_hidden()
        leave(page)
        [started] = service.api.runs(run_type="manual")
        service.wait_for_end(started["dag_run_id"])
        [run] = service.api.runs(run_type="manual")
        open_run(page, service, "capsfusion", run["dag_run_id"])
        expect(page.locator("body")).to_contain_text("no shards in this interval")
    assert run["state"] == "success"
    assert run["note"].startswith(
        f"no shards in this interval, 0 findings\n\n- interval: {EMPTY_DAY}, the whole day (UTC)\n"
    )
    for side, folder in FOLDER.items():
        source = f"{service.bucket}/airflow/sources/{folder}"
        arrived = rf"{side}: \d+ shards in {source} \(\*\.parquet\), which arrived as follows: 1 on 2026-11-10"
        assert re.search(arrived, run["note"]), run["note"]
    tasks = service.api.task_instances(run["dag_run_id"])
    idle = {each["task_id"] for each in tasks if each["state"] == "skipped"}
    assert idle >= {"pull", "share_buckets", "pair", "plan", "fuse", "validate", "load", "ask", "load_held", "announce"}
    assert asset_events(service) == announced


def test_a_broken_shard_fails_alone_and_is_not_tried_again(service: Service, bad_day: str) -> None:
    assert bad_day == "failed"
    pulls = [each for each in service.instances(BAD_DAY) if each["task_id"] == "pull"]
    assert {each["rendered_map_index"]: (each["state"], each["try_number"]) for each in pulls} == {
        "laion_2b/broken.parquet": ("failed", 1),
        "laion_2b/good-laion-2b.parquet": ("success", 1),
        "laion_coco/good-laion-coco.parquet": ("success", 1),
    }
    for task in ("pair", "plan"):
        assert set(service.states(BAD_DAY, task)) == {"success"}, task
    [shard] = service.query("select path, error from shards where state = 'failed'")
    assert shard["path"] == "broken.parquet"
    [report] = [each for each in service.instances(BAD_DAY) if each["task_id"] == "report"]
    assert shard["error"] in log_of(service, report)
    [run] = service.runs(BAD_DAY, BAD_DAY)
    assert shard["error"] in run["note"]
    told = (
        f"capsfusion failed: {run['dag_run_id']}, data interval {BAD_DAY} 00:00:00+00:00 to {LONG_DAY} 00:00:00+00:00"
    )
    wait_until("the webhook is told", lambda: told in service.alerts, 60)
    service.let_deadlines_pass(run["dag_run_id"])
    late = f"capsfusion is late: {run['dag_run_id']} has not succeeded"
    wait_until("the webhook is told that it is late", lambda: any(late in text for text in service.alerts), 60)


def test_a_fuse_task_that_is_marked_failed_leaves_no_rank_and_resumes_when_cleared(
    service: Service, sample: SampleReport, in_order: list[dict[str, Any]], tmp_path: Path
) -> None:
    write_sample_data(tmp_path, rows_per_day=200, days=1, first_day=LONG_DAY, shards_per_side_per_day=1, seed=4)
    for side in FOLDER.values():
        for file in (tmp_path / side).iterdir():
            shutil.copy2(file, service.sources / side / f"long-{file.name}")
    service.upload_sources()
    # With several beams, units take longer, so that there is time to interrupt one.
    service.start_backfill(LONG_DAY, LONG_DAY, conf={"num_beams": 6, "accept_rejections": True})
    unit = wait_until("a unit is being fused", lambda: unit_in_progress(service), 200)
    chunks = f"{service.staging}/{layout.chunks_folder(unit['unit_id'])}"
    wait_until("two chunks are finished", lambda: len(object_store.objects(chunks)) >= 2, 120, pause=0.1)
    [instance] = [
        each for each in service.instances(LONG_DAY) if each["task_id"] == "fuse" and each["state"] == "running"
    ]
    path = f"/dags/capsfusion/dagRuns/{instance['dag_run_id']}/taskInstances/fuse/{instance['map_index']}"
    mine = [process for process in service.ranks() if unit["unit_id"] in " ".join(process.cmdline())]
    assert len(mine) >= 2, "torchrun and its rank"

    service.api.request("PATCH", path, {"new_state": "failed"})
    marked = time.monotonic()
    wait_until("the ranks end", lambda: not any(process.is_running() for process in mine), 60, pause=0.1)
    print(f"the ranks ended {time.monotonic() - marked:.1f} s after the task was marked failed")
    before = object_store.objects(chunks)
    # Clear the task after the run's end, as users do. The scheduler may end a run although a task was just cleared.
    [run] = service.wait_for_runs(LONG_DAY, LONG_DAY)
    assert run["state"] == "failed"
    ended = {(each["task_id"], each["map_index"]): each["end_date"] for each in service.instances(LONG_DAY)}
    [other] = planned(service) - {unit["unit_id"]}
    assert service.states(LONG_DAY, "load") == ["upstream_failed", "success"]
    assert ended["load", 1] < ended["check", -1] < ended["report", -1], "the run reports when all of its units are done"

    assert service.deadlines(instance["dag_run_id"]), "Airflow cannot clear a task that has some kinds of deadlines"
    service.api.request(
        "POST",
        "/dags/capsfusion/clearTaskInstances",
        {
            "dag_run_id": instance["dag_run_id"],
            "task_ids": [["fuse", instance["map_index"]]],
            "include_downstream": True,
            "only_failed": False,
            "dry_run": False,
        },
    )
    [run] = service.wait_for_runs(LONG_DAY, LONG_DAY)
    assert run["state"] == "success"
    after = object_store.objects(chunks)
    assert before.items() <= after.items(), "chunks of the first try are kept as they were"
    assert len(after) > len(before)
    tries = {row["unit_id"]: row["tries"] for row in service.query(UNITS) if row["unit_id"] in planned(service)}
    assert tries == {unit["unit_id"]: 2, other: 1}, "the other unit was not touched"
    assert set(service.states(LONG_DAY, "load")) == {"success"}


@pytest.mark.parametrize("conf", [{"num_beams": 17}, {"limit": 0}, {"existing": "drop"}])
def test_a_backfill_with_bad_params_is_refused(service: Service, conf: dict[str, Any]) -> None:
    with pytest.raises(AirflowApiError) as refused:
        service.start_backfill(FIRST, LAST, conf=conf)
    assert refused.value.status == 422


def test_nothing_that_airflow_and_the_runs_leave_behind_has_a_secret(service: Service, sample: SampleReport) -> None:
    """Searches logs, XComs, rendered fields, notes, events, metrics, the ledger and the names of staged files."""
    if not service.runs(FIRST, FIRST):  # create a run if this test runs alone
        service.backfill(FIRST, FIRST)
    assert [line for line in service.statsd.lines if PLANTED in line] == []
    assert [*service.lineage.iterdir()]
    found = [*(service.folder / "airflow").rglob("*"), *service.lineage.iterdir()]
    logs = [file for file in found if file.is_file() and not file.is_symlink()]
    assert any("task_id=fuse" in str(file) for file in logs)
    assert [str(file) for file in logs if PLANTED.encode() in file.read_bytes()] == []
    for database in ("airflow", WAREHOUSE):
        assert tables_with(service, database, PLANTED) == {}
    assert tables_with(service, "airflow", str(FIRST)).keys() >= {"xcom", "dag_run", "rendered_task_instance_fields"}
    assert not [key for key in object_store.objects(service.staging) if PLANTED in key]


# ---- helpers ----


def asset_events(service: Service) -> list[tuple[str, dict[str, Any]]]:
    """The events of the asset fused_captions: (id of the run that emitted the event, the event's extra)."""
    events = service.api.request("GET", "/assets/events", order_by="timestamp")["asset_events"]
    return [(event["source_run_id"], event["extra"]) for event in events if event["name"] == "fused_captions"]


def tables_with(service: Service, database: str, text: str) -> dict[str, int]:
    """Table → number of rows that contain ``text``."""
    url = service.server.url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        tables = connection.execute("select schemaname, relname from pg_stat_user_tables").fetchall()
        found = {
            name: connection.execute(
                sql.SQL("select count(*) from {} t where t::text like {}").format(
                    sql.Identifier(schema, name), sql.Literal(f"%{text}%")
                )
            ).fetchall()[0][0]
            for schema, name in tables
        }
    return {name: rows for name, rows in found.items() if rows}


def differences(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[str, str, Any, Any]]:
    """(pair_id, column, old value, new value) for each value that differs between the two tables."""
    old, new = ({row["pair_id"]: row for row in rows} for rows in (before, after))
    nothing: dict[str, Any] = {}
    return [
        (pair_id, column, old.get(pair_id, nothing).get(column), new.get(pair_id, nothing).get(column))
        for pair_id in sorted(old.keys() | new.keys())
        for column in ("reasons", *COLUMNS)
        if old.get(pair_id, nothing).get(column) != new.get(pair_id, nothing).get(column)
    ]


def shard_on(service: Service, sample: SampleReport, side: str, day: date, name: str) -> Path:
    """Copy one of the sample's shards to ``name``. The copy arrives on ``day``."""
    source = next(service.sources / path for path in sorted(sample.files) if path.startswith(f"{side}/"))
    target = service.sources / side / name
    shutil.copy(source, target)
    arrives = (datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=6)).timestamp()
    os.utime(target, (arrives, arrives))
    return target


def unit_in_progress(service: Service) -> dict[str, Any] | None:
    """A unit that is being fused and is not tiny. (A unit with a very long caption may have only one or two rows.)"""
    fusing = service.query("select unit_id from work_units where state = 'fusing' and rows_in > 16")
    return fusing[0] if fusing else None


def planned(service: Service) -> set[str]:
    units = service.query(f"select unit_id from work_units where interval_start = '{LONG_DAY}T00:00:00Z'")
    return {row["unit_id"] for row in units}


def log_of(service: Service, instance: dict[str, Any]) -> str:
    path = f"/dags/capsfusion/dagRuns/{instance['dag_run_id']}/taskInstances/{instance['task_id']}"
    answer = service.api.request("GET", f"{path}/logs/{instance['try_number']}", map_index=instance["map_index"])
    return "\n".join(str(line.get("event", line)) for line in answer["content"])
