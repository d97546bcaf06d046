"""Fixtures for the captions view. The warehouse is real and also has hostile captions. Every user has access."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, Request, Route, expect

from capsfusion_tasks.explorer.app import create_app
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import ledger, plans
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.load import load_unit
from tests.conftest import new_warehouse
from tests.warehouse.conftest import DAY, plan, rows

# Texts that web pages contain as alt texts. If the page did not show them as plain text, it would execute them.
HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "\"><svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "{{constructor.constructor('document.title=`owned`')()}}",
    "\u202etxt.exe\u202c \x07bell \x1b[31mred",
    "שלום world مرحبا 🚲",
]
RUN = "backfill__2026-11-10T00:00:00+00:00"
AGAIN = "manual__2026-11-12T00:00:00+00:00"  # a later run of the same interval, which found nothing new


@pytest.fixture(scope="module")
def settings(postgres: EmbeddedPostgres) -> Iterator[Settings]:
    """Settings for a warehouse of 60 captions, a third of them rejected. The first captions have hostile texts."""
    with new_warehouse(postgres) as url:
        settings = Settings(warehouse_url=url)
        with open_warehouse(settings) as warehouse:
            plan(warehouse, ("u1", 60), ("u2", 10), dag_run_id=RUN)
            table = rows(*range(60), rejected={n: ["truncated"] for n in range(0, 60, 3)})
            for name in ("laion_2b", "laion_coco", "capsfusion", "image_url"):
                column = table[name].to_pylist()
                column = [HOSTILE[n] if n < len(HOSTILE) else f"{text} with a bicycle" for n, text in enumerate(column)]
                table = table.set_column(table.schema.get_field_index(name), name, [column])
            load_unit(warehouse, "u1", table, RUN)
            with warehouse.engine.begin() as connection:
                plans.record(connection, DAY, "f1", RUN, pairs=100, already_fused=25, planned=70)
                plans.record(connection, DAY, "f1", AGAIN, pairs=100, already_fused=100, planned=0)
                found = {"source": "/data", "path": HOSTILE[0], "etag": "e", "size_bytes": 1, "arrived_at": DAY.start}
                shards = [
                    Shard(shard_id=f"{side}_shard {n}", side=side, **{**found, "etag": f"{side} {n}"})
                    for side in ("laion_2b", "laion_coco")
                    for n in range(2)
                ]
                ledger.record_shards(connection, shards)
                ledger.shard_pulled(connection, "laion_2b_shard 0", 90, {"unsafe": 7, HOSTILE[0]: 1})
                ledger.shard_failed(connection, "laion_coco_shard 1", HOSTILE[0])
        yield settings


@pytest.fixture(scope="module")
def site(settings: Settings) -> Iterator[str]:
    """URL of the captions view, mounted in another app as in Airflow."""
    around = FastAPI()
    around.mount("/capsfusion", create_app(guard=lambda: None, judge=lambda: "ada", settings=lambda: settings))
    server = uvicorn.Server(uvicorn.Config(around, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/capsfusion/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(chromium: Browser, site: str) -> Iterator[Page]:
    """The page, with its captions loaded. Fails if a script fails, or if the page sends a request to another host."""
    problems: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("data:", f"http://{urlsplit(site).netloc}/")):
            problems.append(f"asked {request.url}")

    expect.set_options(timeout=20_000)  # milliseconds; on a busy machine, answers take seconds
    with chromium.new_context(color_scheme="light") as context:
        page = context.new_page()
        page.on("request", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(site)
        expect(page.locator("tbody tr")).to_have_count(25)
        yield page
    assert problems == []


def view(page: Page, **parameters: str) -> None:
    page.goto(f"{page.url.partition('?')[0]}?{urlencode(parameters)}")


class Held:
    """Holds the page's requests that match, until the test lets the server answer them."""

    def __init__(self, page: Page, pattern: str | re.Pattern[str]) -> None:
        self._page = page
        self._pattern = pattern
        self._routes: list[Route] = []
        page.route(pattern, lambda route: self._routes.append(route))

    def wait(self, number: int) -> Route:
        """Wait until the page has sent request ``number``. The first request is 0.

        Tests wait before an action with which the page ends the request: else, the request might never reach this.
        """
        for _ in range(1000):
            if len(self._routes) > number:
                return self._routes[number]
            self._page.wait_for_timeout(20)  # milliseconds; also lets playwright call the route's handler
        raise AssertionError(f"the page sent {len(self._routes)} requests; expected at least {number + 1}")

    def give(self, number: int, **answer: Any) -> None:
        """Answer request ``number``, and let the page react. ``answer``: not the server's."""
        route = self.wait(number)
        if answer:
            route.fulfill(**answer)
        else:
            route.fulfill(response=route.fetch())  # has no effect if the page has ended the request
        self._page.evaluate("fetch('api/judge').then(answer => answer.text())")

    def bodies(self) -> list[Any]:
        return [route.request.post_data_json for route in self._routes]

    def stop(self) -> None:
        """Hold no more requests."""
        self._page.unroute(self._pattern)
