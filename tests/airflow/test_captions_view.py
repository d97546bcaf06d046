"""The captions view in a real Airflow: who may see it, and how it works in a real browser.

The pictures of docs/images are taken here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.routing import APIRoute
from playwright.sync_api import Browser, expect
from sqlalchemy import text

from capsfusion_tasks.demo.airflow_server import USER
from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.explorer.app import create_app
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import VALIDATED, Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.tasks.export import MANIFEST
from capsfusion_tasks.validation.validate import validate_table
from capsfusion_tasks.warehouse import ledger, plans
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.load import load_unit
from tests.airflow.browser import captions_view, find_a_rejected_caption, follow_to_run, logged_in, picture
from tests.airflow.conftest import NOBODY, WAREHOUSE, Service, wait_until
from tests.warehouse.conftest import plan, rows

pytestmark = pytest.mark.timeout(600)

PREFIX = "/capsfusion"
DAY = Interval(start=datetime(2026, 12, 1, tzinfo=UTC), end=datetime(2026, 12, 2, tzinfo=UTC))
SIDES = ("laion_2b", "laion_coco")
PAIRS, ALREADY = 400, 60
LIMIT = 12  # number of pairs that the run planned first, with the fusion f0
GOOD = {"verdict": "good"}


@pytest.fixture(scope="module")
def run_id(service: Service) -> Iterator[str]:
    """The id of a run in Airflow's database. The warehouse has made-up captions of this run, some with faults.

    The data look as if the run had run twice: first with a limit and the fusion f0, whose captions were all rejected,
    then with the fusion f1.
    """
    run = service.api.request(
        "POST", "/dags/capsfusion/dagRuns", {"logical_date": (DAY.end + timedelta(hours=1)).isoformat()}
    )["dag_run_id"]
    service.api.request("PATCH", f"/dags/capsfusion/dagRuns/{run}", {"state": "success"})
    url = service.server.url(WAREHOUSE).render_as_string(hide_password=False)
    with open_warehouse(Settings(warehouse_url=url)) as warehouse:
        plan(warehouse, ("shown-0", LIMIT), fusion_id="f0", interval=DAY, dag_run_id=run)
        with warehouse.engine.begin() as connection:
            plans.record(connection, DAY, "f0", run, pairs=PAIRS + ALREADY, already_fused=0, planned=LIMIT)
        first = range(PAIRS, PAIRS + LIMIT)
        load_unit(warehouse, "shown-0", rows(*first, rejected={number: ["truncated"] for number in first}), run)
        plan(warehouse, ("shown", PAIRS), interval=DAY, dag_run_id=run)
        with warehouse.engine.begin() as connection:
            plans.record(connection, DAY, "f1", run, pairs=PAIRS + ALREADY, already_fused=ALREADY, planned=PAIRS)
            for side in SIDES:
                file = {"source": f"/data/{side}", "path": "part-00000.parquet", "etag": "shown", "size_bytes": 1}
                shard = Shard(shard_id=f"{side}-0", side=side, arrived_at=DAY.start, **file)
                ledger.record_shards(connection, [shard])
                ledger.shard_pulled(connection, shard.shard_id, 3 * PAIRS // 2, {"unsafe": PAIRS // 8})
            ledger.unit_fused(connection, "shown", {"gpu_seconds": 40.0, "rows_per_second": PAIRS / 40})
        load_unit(warehouse, "shown", made_captions(), run)
        yield str(run)
        with warehouse.engine.begin() as connection:  # clean up, because other tests count the rows of the warehouse
            for table in ("fused_captions", "rejected_captions", "work_units"):
                connection.execute(text(f"delete from capsfusion.{table} where unit_id like 'shown%'"))
            connection.execute(text("delete from capsfusion.shards where etag = 'shown'"))
            for table in ("plans", "fusions"):
                connection.execute(text(f"delete from capsfusion.{table} where fusion_id in ('f0', 'f1')"))


def made_captions() -> pa.Table:
    rng = random.Random(0)
    pairs = [make_pair(rng, "heldout") for _ in range(PAIRS)]
    captions = [pair.fused for pair in pairs]
    captions[::11] = [caption[: len(caption) * 2 // 3] for caption in captions[::11]]  # cut off
    # These captions contain no fact from their raw captions.
    captions[::13] = [pair.synthetic for pair in pairs[::13]]
    texts = {"image_url": [f"https://images.example.com/{number:06}.jpg" for number in range(PAIRS)]}
    texts |= {"laion_2b": [pair.raw for pair in pairs], "laion_coco": [pair.synthetic for pair in pairs]}
    table = rows(*range(PAIRS), finish_reason="stop", laion_2b_shard="laion_2b-0", laion_coco_shard="laion_coco-0")
    for name, column in {**texts, "capsfusion": captions}.items():
        table = table.set_column(table.schema.get_field_index(name), name, [column])
    return validate_table(table).select(VALIDATED.names).cast(VALIDATED)


def routes() -> list[tuple[str, str]]:
    app = create_app(guard=lambda: None, judge=lambda: "")
    filled = {"name": "main.js", "pair_id": "00000000-0000-0000-0000-000000000000", "fusion_id": "f1"}
    query = {"/image": "?url=https://example.com/a.jpg"}
    return [
        (method, PREFIX + route.path.format(**filled) + query.get(route.path, ""))
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods)
    ]


def test_airflow_serves_no_other_app_of_ours(service: Service) -> None:
    plugins = service.api.request("GET", "/plugins")["plugins"]
    assert [app["url_prefix"] for plugin in plugins for app in plugin["fastapi_apps"]] == [PREFIX]


@pytest.mark.parametrize(("method", "path"), routes())
def test_who_is_not_logged_in_sees_nothing(service: Service, method: str, path: str) -> None:
    assert httpx.request(method, service.api.url + path, json=GOOD).status_code == 401


@pytest.mark.parametrize(("method", "path"), routes())
def test_who_may_not_read_the_dag_sees_nothing(service: Service, method: str, path: str) -> None:
    assert ask(service, NOBODY, method, path).status_code == 403


@pytest.mark.parametrize(("method", "path"), [route for route in routes() if "0000" not in route[1]])
def test_who_may_read_the_dag_sees_it(service: Service, method: str, path: str) -> None:
    assert ask(service, USER, method, path).status_code == 200


def ask(service: Service, user: str, method: str, path: str) -> httpx.Response:
    # A browser sends the token as a cookie.
    cookies = {"_token": token_of(service.api.url, user, service.password(user))}
    return httpx.request(method, service.api.url + path, json=GOOD, cookies=cookies, timeout=60)


@cache
def token_of(address: str, user: str, password: str) -> str:
    login = {"username": user, "password": password}
    answer = httpx.post(f"{address}/auth/token", json=login, timeout=60).raise_for_status()
    return str(answer.json()["access_token"])


# ---- in a browser ----


def test_a_user_finds_a_rejected_caption_and_follows_it_to_its_run(
    service: Service, chromium: Browser, run_id: str
) -> None:
    with logged_in(service, chromium, "light") as page:
        page.get_by_role("link", name="Captions", exact=True).click()
        expect(captions_view(page).locator("tbody tr")).to_have_count(25)
        picture(page, "captions-light.png")
        caption = find_a_rejected_caption(page)
        expect(caption).to_contain_text("part-00000.parquet")
        picture(page, "caption-light.png")
        page.keyboard.press("3")
        expect(caption.get_by_role("button", name="Bad")).to_have_attribute("aria-pressed", "true")
        caption.get_by_role("button", name="Withdraw").click()
        tab = follow_to_run(page, caption, run_id)
        expect(page.locator("body")).to_contain_text("marked as successful, without a report")
        expect(tab.locator("#figures")).to_contain_text(f"of {PAIRS} (")
        expect(tab.locator("#figures")).to_contain_text(f"already fused {ALREADY}")
        page.set_viewport_size({"width": 1280, "height": 1040})  # scroll so that the whole funnel is in the picture
        picture(page, "run-light.png")


def test_a_filter_stays_in_airflow_s_address_and_its_captions_are_exported(
    service: Service, chromium: Browser, run_id: str
) -> None:
    target = service.folder / "exported"
    [unit] = service.query("select accepted from work_units where unit_id = 'shown'")
    accepted = unit["accepted"]
    with logged_in(service, chromium, "light") as page:
        page.get_by_role("link", name="Captions", exact=True).click()
        facets = captions_view(page).get_by_role("group", name="Facets")
        facets.get_by_role("button", name=f"{DAY.start:%Y-%m-%d}").click()
        expect(page).to_have_url(re.compile(f"#captions.*day={DAY.start:%Y-%m-%d}"))
        page.reload()
        view = captions_view(page)
        expect(view.get_by_label("Day of the interval")).to_have_value(f"{DAY.start:%Y-%m-%d}")
        expect(view.locator("#captions-status")).to_have_text(f"1 to 25 of {accepted} captions, newest first")
        view.get_by_role("button", name="Export these…").click()
        dialog = view.locator("dialog#start")
        expect(dialog).to_contain_text(f"{accepted} accepted captions match.")
        dialog.get_by_label("Folder").fill(str(target))
        dialog.get_by_role("button", name="Export these").click()
        expect(dialog.get_by_role("alert").get_by_role("link")).to_be_visible()
    wait_until("the export is complete", (target / MANIFEST).exists, 120)
    assert pq.read_table(target / "data" / "part-00000.parquet").num_rows == accepted


def test_the_view_is_dark_where_airflow_is_and_mixes_no_fusions_of_a_run(
    service: Service, chromium: Browser, run_id: str
) -> None:
    with logged_in(service, chromium, "dark") as page:
        page.get_by_role("link", name="Captions", exact=True).click()
        view = captions_view(page)
        expect(view.locator("tbody tr")).to_have_count(25)
        expect(view.locator("html")).to_have_attribute("data-theme", "dark")
        picture(page, "captions-dark.png")
        view.get_by_role("button", name="Runs").click()
        figures = view.locator("#figures")
        expect(figures).to_contain_text("Counts of all fusions together")
        view.get_by_role("button", name="fusion f0").click()
        expect(figures).to_contain_text(f"0 of {LIMIT} (")
        expect(figures).to_contain_text(f"left for a later run {PAIRS + ALREADY - LIMIT}")
        view.get_by_role("button", name="fusion f1").click()
        expect(figures).to_contain_text(f"of {PAIRS} (")
        expect(figures).not_to_contain_text("left for a later run")
        expect(figures).not_to_contain_text("Counts of all fusions together")
        picture(page, "runs-dark.png")
        view.get_by_role("button", name="Trends").click()
        expect(view.get_by_role("img", name=re.compile(f"^Captions: .*{DAY.start:%Y-%m-%d} accepted"))).to_be_visible()
