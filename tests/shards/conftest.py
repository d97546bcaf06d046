from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from capsfusion_tasks.shards import retries
from tests.shards.web_server import Hub, WebServer


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local Hugging Face hub, to which HF_ENDPOINT points. No user is logged in."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    with server.running():
        yield server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Lets transfers retry at once. Collects the seconds that they would have waited."""
    seconds: list[float] = []

    def wait(stop: threading.Event, wanted: float) -> bool:
        seconds.append(wanted)
        return stop.is_set()

    monkeypatch.setattr(retries, "_wait", wait)
    return seconds
