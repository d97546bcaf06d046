"""Commands that wait for the warehouse or the staging area say that they are still working, and what they do."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import create_engine, text

from capsfusion_tasks import terminal
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.terminal import Working
from capsfusion_tasks.upkeep.progress import counted
from tests.command import capsfusion

PATIENCE_SECONDS = 60  # only a command that does not say that it is still working waits so long
DAYS = [
    Interval(start=datetime(2026, 11, day, tzinfo=UTC), end=datetime(2026, 11, day + 1, tzinfo=UTC))
    for day in (9, 10, 11)
]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when a command has said that it is still working. Commands say so at once, not after seconds."""
    event = threading.Event()

    class Impatient(Working):
        def __init__(self, console: Console) -> None:
            super().__init__(console, after=0.01)

        def _say_still_working(self) -> None:
            super()._say_still_working()
            event.set()

    monkeypatch.setattr(terminal, "Working", Impatient)
    return event


@contextmanager
def units_locked(url: str, until: threading.Event) -> Iterator[None]:
    """Another session locks the table of units until the event is set."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("lock table capsfusion.work_units in access exclusive mode"))

        def release() -> None:
            until.wait(PATIENCE_SECONDS)
            connection.rollback()

        until.clear()
        waiting = threading.Thread(target=release)
        waiting.start()
        yield
        waiting.join()
    engine.dispose()


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "select count(*) from work_units", "--format", "csv"),
        ("status",),
        ("plan", "--format", "json"),
        ("check", "--format", "json"),
        ("gc", "--format", "json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_that_waits_for_the_warehouse_says_so_on_standard_error(
    warehouse_url: str, tmp_path: Path, said: threading.Event, arguments: tuple[str, ...]
) -> None:
    with units_locked(warehouse_url, said):
        waited = capsfusion(*arguments, CAPSFUSION_WAREHOUSE_URL=warehouse_url, CAPSFUSION_HOME=str(tmp_path))
    assert waited.returncode == 0, waited.messages
    assert said.is_set()
    assert "still working, " in waited.messages
    assert waited.stdout
    assert b"still working" not in waited.stdout


def test_a_check_says_what_it_is_doing_and_how_far_it_is(
    warehouse_url: str, tmp_path: Path, said: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "staging"))
    for day in DAYS:
        storage.write_json(layout.discovered(day), {"shards": []})
    original = Storage.read_json

    def slow(storage: Storage, path: str) -> Any:
        if path == layout.discovered(DAYS[0]):
            # Say it once more from here: the first message may be from before this read.
            said.clear()
            assert said.wait(PATIENCE_SECONDS)
        return original(storage, path)

    monkeypatch.setattr(terminal, "_LOG_SECONDS", 0.01)
    monkeypatch.setattr(Storage, "read_json", slow)
    done = capsfusion("check", CAPSFUSION_WAREHOUSE_URL=warehouse_url, CAPSFUSION_HOME=str(tmp_path))
    assert "reading lists of shards: 0 of 3\n" in done.messages


def test_progress_is_counted_after_each_item() -> None:
    said: list[str] = []
    assert [*counted("ab", said.append, "reading", 1200)] == ["a", "b"]
    assert said == [f"reading: {number} of 1,200" for number in range(3)]


def test_a_log_gets_the_message_after_seconds_and_again_only_after_a_minute() -> None:
    told = threading.Event()

    class Log(io.StringIO):
        def write(self, line: str) -> int:
            if "still working" in line:
                told.set()
            return super().write(line)

    log = Log()
    working = Working(Console(file=log, width=80), after=0.01)
    working.doing("counting")
    with working:
        assert told.wait(PATIENCE_SECONDS)
        ended = time.monotonic() + 10 * 0.01
        while time.monotonic() < ended:  # enough for a second message, if it came as soon as the first
            time.sleep(0.01)
        working.say("done")
    assert re.fullmatch(r"still working, \d+ s since the start: counting\ndone\n", log.getvalue())
