"""Tests units that the gate stops, in a real Airflow: the question, each possible answer, and no answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, expect

from capsfusion_tasks.demo.airflow_api import DAG, AirflowApiError
from capsfusion_tasks.demo.airflow_server import LOG_FILE, USER
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.staging import layout
from tests import object_store
from tests.airflow.browser import leave, logged_in
from tests.airflow.conftest import GATE_ROWS, RUN_SECONDS, Service, midnight, wait_until

pytestmark = pytest.mark.timeout(900)

LET_IN, KEPT_OUT = date(2026, 11, 17), date(2026, 11, 18)
DAYS = (LET_IN, KEPT_OUT)


@pytest.fixture(scope="module")
def asked(service: Service) -> Iterator[None]:
    """Backfill two days of truncated captions, so that the runs ask the question. Replaces the warehouse at the end."""
    for day in DAYS:
        numbers = range(GATE_ROWS)
        urls = [f"https://gate.example.com/{day}/{number}.jpg" for number in numbers]
        raws = [" ".join(f"Rex-{day.day}-{number}-{word}" for word in range(50)) for number in numbers]
        arrives = datetime(day.year, day.month, day.day, 6, tzinfo=UTC).timestamp()
        for side, more in {"laion_2b": {}, "laion_coco": {"top_caption": ["A white wall."] * len(urls)}}.items():
            file = service.sources / FOLDER[side] / f"gate-{day}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"URL": urls, "TEXT": raws, **more}), file)
            os.utime(file, (arrives, arrives))
    service.upload_sources()
    service.start_backfill(*DAYS)
    for day in DAYS:
        wait_for_question(service, day)
        [run] = service.runs(day, day)
        assert run["note"].startswith(
            f"running, interval: {day}, the whole day (UTC)\n\n[Captions and speed of this run]("
        )
    yield
    service.new_warehouse(keep="gate")


def test_a_closed_gate_asks_and_loads_nothing(service: Service, asked: None) -> None:
    for day in DAYS:
        assert service.states(day, "validate") == ["success"]
        assert service.states(day, "load") == ["skipped"]
        [unit] = units(service, day)
        assert (unit["state"], unit["accepted"], unit["answer"]) == ("failed", None, None)
        question = detail(service, day)
        assert (
            question["subject"]
            == f"1 unit is held: {unit['hold_rejected']} of {GATE_ROWS} captions are rejected. Load them?"
        )
        assert "truncated" in question["body"]
        run_id = service.runs(day, day)[0]["dag_run_id"]
        page = f"{service.api.url}/dags/capsfusion/runs/{quote(run_id, safe='')}/tasks/ask/required_actions"
        assert any("1 unit is held" in text and page in text for text in questions(service))
        [told] = [text for text in service.alerts if text.startswith(f"capsfusion holds a unit of run {run_id}: ")]
        assert f"{unit['hold_rejected']} of {GATE_ROWS} captions of unit {unit['unit_id']} are rejected (" in told
    assert service.query("select 1 from rejected_captions where image_url like 'https://gate.%'") == []


def test_a_user_reads_the_question_and_lets_the_unit_in(service: Service, asked: None, chromium: Browser) -> None:
    [held] = units(service, LET_IN)
    fused = object_store.objects(f"{service.staging}/{layout.chunks_folder(held['unit_id'])}")
    run_id = service.runs(LET_IN, LET_IN)[0]["dag_run_id"]
    with logged_in(service, chromium, "light") as page:
        page.goto(f"{service.api.url}/dags/capsfusion/runs/{quote(run_id, safe='')}/tasks/ask/required_actions")
        expect(page.get_by_text(f"of {GATE_ROWS} captions are rejected").first).to_be_visible()
        expect(page.get_by_text("truncated").first).to_be_visible()
        expect(page.get_by_role("link", name="Captions of this run that are loaded")).to_be_visible()
        with page.expect_response(lambda answer: answer.request.method == "PATCH"):
            page.get_by_role("button", name="Load", exact=True).click()
        leave(page)
        [run] = service.wait_for_runs(LET_IN, LET_IN)
    assert run["state"] == "success", run["note"]
    [loaded] = units(service, LET_IN)
    assert (loaded["state"], loaded["error"], loaded["rows_in"]) == ("loaded", None, GATE_ROWS)
    assert (loaded["answer"], loaded["answered_by"], loaded["dag_run_id"]) == ("load", USER, run_id)
    assert loaded["answered_at"] is not None
    assert service.states(LET_IN, "load_held") == ["success"]
    assert object_store.objects(f"{service.staging}/{layout.chunks_folder(held['unit_id'])}") == fused, (
        "it was fused once"
    )
    assert stored(service, LET_IN) == GATE_ROWS
    with pytest.raises(AirflowApiError) as refused:
        answer(service, LET_IN, "Keep out")
    assert refused.value.status == 409, "the first answer counts"


def test_a_question_that_nobody_answers_in_time_is_asked_again_and_an_answer_outlives_its_worker(
    service: Service, asked: None
) -> None:
    [run] = service.runs(KEPT_OUT, KEPT_OUT)
    service.let_question_time_out(run["dag_run_id"])
    [run] = service.wait_for_runs(KEPT_OUT, KEPT_OUT)
    assert run["state"] == "failed"
    assert (service.states(KEPT_OUT, "ask"), service.states(KEPT_OUT, "load_held")) == (["failed"], ["upstream_failed"])
    [unit] = units(service, KEPT_OUT)
    assert (unit["state"], unit["answer"]) == ("failed", None)
    assert stored(service, KEPT_OUT) == 0

    before = len(questions(service))
    service.api.request(
        "POST",
        "/dags/capsfusion/clearTaskInstances",
        {
            "dag_run_id": run["dag_run_id"],
            "task_ids": ["ask"],
            "include_downstream": True,
            "only_failed": False,
            "dry_run": False,
        },
    )
    wait_for_question(service, KEPT_OUT)
    service.lose_worker_after_answer(run["dag_run_id"], "Keep out")
    [run] = service.wait_for_runs(KEPT_OUT, KEPT_OUT)
    assert run["state"] == "failed"
    [task] = [each for each in service.instances(KEPT_OUT) if each["task_id"] == "ask"]
    assert task["try_number"] == 3, "after one that nobody answered and one that lost its worker"
    [unit] = units(service, KEPT_OUT)
    assert (unit["state"], unit["answer"], unit["answered_by"]) == ("failed", "keep out", USER)
    assert f"kept out by {USER}" in run["note"]
    assert stored(service, KEPT_OUT) == 0
    assert len(questions(service)) == before + 1


def test_a_backfill_that_accepts_rejections_asks_nobody(service: Service, asked: None) -> None:
    accepting = {"reprocess": "failed", "conf": {"accept_rejections": True}}
    assert service.backfill(KEPT_OUT, KEPT_OUT, **accepting) == {str(KEPT_OUT): "success"}
    assert set(service.states(KEPT_OUT, "ask")) == {"skipped"}
    [*_, unit] = units(service, KEPT_OUT)
    assert (unit["state"], unit["answer"], unit["answered_by"]) == ("loaded", "load", "accept_rejections")
    assert stored(service, KEPT_OUT) == GATE_ROWS
    assert "Params: accept_rejections True" in service.runs(KEPT_OUT, KEPT_OUT)[0]["note"]


# ---- Helpers ----


def wait_for_question(service: Service, day: date) -> None:
    """Wait until the run asks, and until the scheduler knows that the asking process has ended.

    If an answer came earlier, the task would start again, and Airflow would believe that the task had crashed.
    """

    asking = """
        select json_build_array(run_id, ti.try_number) from task_instance ti join dag_run using (dag_id, run_id)
        where task_id = 'ask' and ti.state = 'awaiting_input' and dag_id = :dag and logical_date = :day
    """

    def is_asked() -> bool:
        if not (found := service.in_airflow(asking, dag=DAG, day=midnight(day))):
            return False
        [[run_id, try_number]] = found
        event = f"task_id='ask', run_id='{run_id}', try_number={try_number}, map_index=-1)"
        log = (service.folder / "airflow" / LOG_FILE).read_text(errors="replace")
        return any(event in line for line in log.splitlines() if "Received executor event with state success" in line)

    wait_until(f"the run of {day} asks", is_asked, RUN_SECONDS)


def questions(service: Service) -> list[str]:
    return [text for text in service.alerts if text.startswith("capsfusion asks: ")]


def detail_path(service: Service, day: date) -> str:
    run_id = service.runs(day, day)[0]["dag_run_id"]
    return f"/dags/capsfusion/dagRuns/{run_id}/taskInstances/ask/-1/hitlDetails"


def detail(service: Service, day: date) -> Any:
    return service.api.request("GET", detail_path(service, day))


def answer(service: Service, day: date, option: str) -> None:
    service.api.request("PATCH", detail_path(service, day), {"chosen_options": [option], "params_input": {}})


def units(service: Service, day: date) -> list[dict[str, Any]]:
    """The day's unit: a row for each time that the gate stopped the unit, with the gate's reason and the answer."""
    return service.query(
        "select unit.unit_id, state, unit.rows_in, accepted, error, hold.rejected as hold_rejected, answer,"
        " answered_by, answered_at, hold.dag_run_id from work_units unit join gate_holds hold using (unit_id)"
        f" where interval_start = '{day}T00:00:00Z' order by hold_id"
    )


def stored(service: Service, day: date) -> int:
    [found] = service.query(
        "select count(*) as n from (select image_url from rejected_captions union all select image_url from"
        f" fused_captions) captions where image_url like 'https://gate.example.com/{day}/%'"
    )
    return int(found["n"])
