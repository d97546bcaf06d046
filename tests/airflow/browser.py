"""Steps of a user in Airflow's UI, in a real browser: log in, fill in forms, read the captions view.

If CAPSFUSION_SCREENSHOTS is set (``make screenshots``), the steps also take the pictures of docs/images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Frame, Locator, Page, expect

from capsfusion_tasks.demo.airflow_server import USER
from tests.airflow.conftest import RUN_SECONDS, Service


@contextmanager
def logged_in(service: Service, chromium: Browser, scheme: str) -> Iterator[Page]:
    """Airflow's home page in a new window, logged in. Fails if the browser sends a request to another host."""
    asked: set[str] = set()
    look: Any = {"color_scheme": scheme, "viewport": {"width": 1280, "height": 800}}
    look["reduced_motion"] = "reduce"  # because moving placeholders of what is not loaded yet keep a core busy
    with chromium.new_context(**look, timezone_id="UTC") as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        page.goto(service.api.url)
        page.locator("input[name=username]").fill(USER)
        page.locator("input[name=password]").fill(service.password(USER))
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Dags", exact=True)).to_be_visible()
        yield page
    assert {each for each in asked if each.startswith("http")} == {service.api.url}


def leave(page: Page) -> str:
    """Leave the page, and return its address. Airflow's pages load their data again and again, and keep a core busy."""
    address = page.url
    page.goto("about:blank")
    return address


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("CAPSFUSION_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / name)


# ---- Airflow's own pages ----


def open_dag(page: Page, dag_id: str) -> None:
    page.get_by_role("link", name="Dags", exact=True).click()
    page.get_by_test_id("dag-id").filter(has_text=re.compile(f"^{dag_id}$")).click()
    expect(page.get_by_role("link", name="Runs", exact=True)).to_be_visible()


def trigger_dialog(page: Page) -> Locator:
    """Open the form that starts a run, on a DAG's page."""
    page.get_by_role("button", name="Trigger Dag").click()
    return page.get_by_role("dialog").filter(
        has=page.get_by_role("heading", name=re.compile("^(Trigger Dag|Run Back)"))
    )


def start_backfill(page: Page, first: date, last: date) -> None:
    """On a DAG's page, fill in the backfill dialog and start the backfill. All days run, one at a time.

    Changes a Param and leaves the box "Override parameters" unticked, a common mistake of users.
    """
    dialog = trigger_dialog(page)
    dialog.get_by_text("Backfill", exact=True).click()
    expect(dialog).to_contain_text("In a backfill, tick Override parameters on existing runs above.")
    field_of(dialog, "Beams").get_by_role("spinbutton").fill("2")
    pick_day(page, field_of(dialog, "From"), first)
    pick_day(page, field_of(dialog, "To"), last)
    dialog.get_by_text("All Runs", exact=True).click()
    expect(dialog).to_contain_text(f"{(last - first).days + 1} runs will be triggered")
    dialog.get_by_role("button", name="Run Backfill").click()
    expect(page.get_by_text("Backfill in progress")).to_be_visible()


def field_of(dialog: Locator, name: str) -> Locator:
    return dialog.get_by_role("group").filter(has_text=re.compile(f"^{name}"))


def pick_day(page: Page, field: Locator, day: date) -> None:
    field.get_by_role("paragraph").click()
    picker = page.get_by_placeholder("YYYY/MM/DD")
    picker.fill(f"{day:%Y/%m/%d}")
    picker.press("Enter")
    page.keyboard.press("Escape")
    expect(picker).to_be_hidden()


def watch_run(page: Page, run_id: str, state: str) -> None:
    """Wait until the list of runs shows ``state`` for the run. The list refreshes itself."""
    row = page.get_by_role("row").filter(has_text=run_id)
    expect(row.get_by_test_id("table-cell-state")).to_have_text(state, timeout=1000 * RUN_SECONDS)


def open_run(page: Page, service: Service, dag_id: str, run_id: str) -> None:
    page.goto(f"{service.api.url}/dags/{dag_id}/runs/{quote(run_id, safe='')}")


# ---- the captions view ----


def captions_view(page: Page) -> Frame:
    """The frame of the captions view, opened from the navigation or from the tab of a run."""
    frame = page.wait_for_selector("iframe[title=Captions]").content_frame()
    assert frame is not None
    return frame


def captions_of_run(page: Page) -> Frame:
    """Open the tab Captions on a run's page."""
    page.locator("a[href*='plugin/captions-of-run']").click()
    return captions_view(page)


def find_a_rejected_caption(page: Page) -> Locator:
    """Filter for rejected captions, search for a word of one of them, and open that caption."""
    view = captions_view(page)
    view.get_by_label("Verdict").select_option("rejected")
    expect(view.locator("tbody tr.accepted")).to_have_count(0)
    expect(view.locator("tbody tr.rejected")).not_to_have_count(0)
    word = re.findall(r"(?<!&)\b[A-Za-z]{5,}\b", view.locator("tbody tr .fused").first.inner_text())[0]
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type(word)
    with page.expect_response(lambda answer: "/api/captions?" in answer.url and word in answer.url):
        page.keyboard.press("Enter")  # the table can look the same before and after the search
    expect(view.locator("tbody tr").first).to_contain_text(re.compile(word[:5], re.IGNORECASE))
    view.locator("tbody tr").first.click()
    caption = view.get_by_role("dialog")
    expect(caption).to_contain_text("Rejected")
    return caption


def follow_to_run(page: Page, caption: Locator, run_id: str) -> Frame:
    """Follow an opened caption to the page of its DAG run, and open the tab with the run's figures."""
    caption.get_by_role("link", name=run_id).click()
    page.wait_for_url(f"**/dags/capsfusion/runs/{run_id.replace('+', '*').replace(':', '*')}**")
    tab = captions_of_run(page)
    expect(tab.locator("#figures figure")).not_to_have_count(0)
    expect(tab.locator("#run-list")).to_be_hidden()
    return tab
