"""Replays in a real Airflow. A real browser starts them, from the captions view and from the DAG's form."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from playwright.sync_api import Browser, expect

from capsfusion_tasks.demo.pairs.grammar import make_pair
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.tasks.dataset_names import table_name
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.load import load_unit
from tests.airflow.browser import (
    captions_of_run,
    captions_view,
    field_of,
    leave,
    logged_in,
    open_dag,
    pick_day,
    trigger_dialog,
)
from tests.airflow.conftest import WAREHOUSE, Service
from tests.airflow.monitoring import read_events
from tests.warehouse.conftest import plan, rows

pytestmark = pytest.mark.timeout(600)

DAG = "/dags/capsfusion_replay"
OLD = "0123456789ab"  # the fusion_id of the rejected captions that are replayed


@pytest.fixture
def quarantine(service: Service) -> Iterator[dict[int, str]]:
    """Loads rejected captions of the fusion OLD. Yields laion_hash → reason. Replaces the warehouse at the end."""
    rng = random.Random(5)
    captions = {number: (pair.raw, pair.synthetic) for number in range(6) for pair in [make_pair(rng, "train")]}
    # The model cannot copy that many codes, so the captions of all beams fail validation.
    captions[6] = (" ".join(f"X{number}Q{31 * number}" for number in range(45)), "A white wall.")
    reasons = {number: "copy" if number == 0 else "truncated" for number in captions}
    loaded = [
        rows(number, rejected={number: [reasons[number]]}, laion_2b=raw, laion_coco=synthetic, capsfusion="It is")
        for number, (raw, synthetic) in captions.items()
    ]
    url = service.server.url(WAREHOUSE).render_as_string(hide_password=False)
    with open_warehouse(Settings(warehouse_url=url)) as warehouse:
        plan(warehouse, ("rejected-0", len(captions)), fusion_id=OLD)
        load_unit(warehouse, "rejected-0", pa.concat_tables(loaded))
    yield reasons
    service.new_warehouse(keep="replay")


def test_a_replay_moves_exactly_the_captions_that_pass_and_says_how_many(
    service: Service, quarantine: dict[int, str], chromium: Browser
) -> None:
    with logged_in(service, chromium, "light") as page:
        open_dag(page, "capsfusion_replay")
        dialog = trigger_dialog(page)
        field_of(dialog, "Reasons").get_by_role("combobox").click()
        page.get_by_role("option", name="truncated", exact=True).click()
        field_of(dialog, "Fusion").get_by_role("textbox").fill(OLD)
        pick_day(page, field_of(dialog, "Loaded from"), date(2026, 1, 1))
        field_of(dialog, "Longest caption").get_by_role("spinbutton").fill("60")
        expect(field_of(dialog, "Number format")).to_contain_text("as CAPSFUSION_DTYPE says")
        # The form's request is intercepted, because a second run would take long and test nothing new.
        page.route(f"**/api/v2{DAG}/dagRuns", lambda route: route.abort())
        with page.expect_request(lambda request: request.method == "POST" and request.url.endswith("/dagRuns")) as sent:
            dialog.get_by_role("button", name="Trigger", exact=True).click()
        asked: Any = sent.value.post_data_json
        conf = asked["conf"]
        given = {name: conf[name] for name in ("reason", "fusion_id", "max_new_tokens", "dtype")}
        assert given == {"reason": ["truncated"], "fusion_id": OLD, "max_new_tokens": 60, "dtype": None}
        assert conf["start"].startswith("2026-01-01T00:00")
        page.unroute_all()

        page.goto(service.api.url)
        page.get_by_role("link", name="Captions", exact=True).click()
        view = captions_view(page)
        facets = view.get_by_role("group", name="Facets")
        facets.get_by_role("button", name=f"rejected {len(quarantine)}").click()
        facets.get_by_role("button", name="truncated 6").click()
        view.get_by_role("button", name="Replay these…").click()
        start = view.locator("dialog#start")
        expect(start).to_contain_text("6 rejected captions match.")
        expect(start.get_by_label("Captions of")).to_have_value(OLD)
        start.get_by_role("button", name="Replay these").click()
        start.get_by_role("alert").get_by_role("link").click()
        page.wait_for_url(re.compile("/dags/capsfusion_replay/runs/"), wait_until="commit")
        [run] = service.api.request("GET", f"{DAG}/dagRuns")["dag_runs"]
        path = f"{DAG}/dagRuns/{run['dag_run_id']}"
        address = leave(page)
        assert service.wait_for_end(run["dag_run_id"]) == "success"
        page.goto(address)
        figures = captions_of_run(page).locator("#figures")
        expect(figures).to_contain_text("A replay of rejected captions")
        shown = figures.inner_text()

    replayed = service.query(f"select laion_hash from replayed_captions where fusion_id = '{OLD}' order by 1")
    assert [row["laion_hash"] for row in replayed] == [n for n, reason in quarantine.items() if reason == "truncated"]
    assert service.query(f"select laion_hash from rejected_captions where fusion_id = '{OLD}'") == [{"laion_hash": 0}]
    [unit] = service.query(
        f"select unit_id, fusion_id, rows_in, accepted, rejected, dag_run_id from work_units where replay_of = '{OLD}'"
    )
    assert unit["dag_run_id"] == run["dag_run_id"]
    moved, kept = (
        {
            row["laion_hash"]
            for row in service.query(f"select laion_hash from {table} where unit_id = '{unit['unit_id']}'")
        }
        for table in ("fused_captions", "rejected_captions")
    )
    assert moved
    assert 6 in kept
    assert moved | kept == set(range(1, 7))
    assert (unit["rows_in"], unit["accepted"], unit["rejected"]) == (6, len(moved), len(kept))
    [event] = [
        each["extra"]
        for each in service.api.request("GET", "/assets/events")["asset_events"]
        if each["source_run_id"] == run["dag_run_id"]
    ]
    counts = {"rows_in": 6, "accepted": len(moved), "rejected": len(kept), "moved": len(moved)}
    assert event == {"replay_of": OLD, "fusion_id": unit["fusion_id"], **counts}
    report = service.api.request("GET", f"{path}/taskInstances/report/xcomEntries/return_value")["value"]
    assert f"selected: 6 rejected captions of fusion {OLD}, in units: 1 loaded" in str(report)
    assert f"moved: {len(moved)} passed under fusion {unit['fusion_id']}" in str(report)
    assert f"rejected again: {len(kept)}, " in str(report)
    assert f"{len(moved)} of 6 (" in shown
    [lineage] = [each for each in read_events(service.lineage, "capsfusion_replay") if each.inputs]
    accepted, rejected, replayed_to = (
        table_name(service.server.url(WAREHOUSE), f"{kind}_captions") for kind in ("fused", "rejected", "replayed")
    )
    assert rejected in {(each.namespace, each.name) for each in lineage.inputs}
    assert {(each.namespace, each.name) for each in lineage.outputs} == {accepted, rejected, replayed_to}
