"""A run with hostile captions, in shards with hostile names. The texts are stored unchanged and shown as plain text."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.tasks.local_run import run_pipeline
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.url import libpq_uri, parse_url
from tests.conftest import new_warehouse, plain_url
from tests.hostile.captions import CONTROL_TOKENS, HOSTILE
from tests.one_process import ranks_in_one_process

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
NAMES = (
    "'; drop table capsfusion.shards; --.parquet",
    "$(touch pwned).parquet",
    "<img src=x onerror=alert(1)>.parquet",
    "[red]%2e%2e%2f..%2fetc%2fpasswd.parquet",
    "--help.parquet",
    "\u202eteuqrap.parquet",
)
REFUSED = (b"\x1b[2Jcleared.parquet", b"two\nlines.parquet", b"no utf8 \xe9.parquet")
# Escape sequences that must not reach a terminal. Sequences that end in "m" are allowed: our tables are in colour.
COMMANDS = re.compile(
    "\x1b(?!\\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]"
)
TEXTS = [text for text in (*HOSTILE, *CONTROL_TOKENS, "long " * 400_000) if text.strip()]


@dataclass
class Done:
    settings: Settings
    folder: Path  # folder of the run's files
    said: list[str]
    report: str


@pytest.fixture(scope="module")
def done(tiny_model: Path, postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "raw").mkdir()
    (folder / "coco").mkdir()
    urls = [f"http://host/{number}/{text[:300]}" for number, text in enumerate(TEXTS)]
    for number, name in enumerate(NAMES[:-1]):
        part = slice(number, None, len(NAMES) - 1)
        pq.write_table(pa.table({"URL": urls[part], "TEXT": TEXTS[part]}), folder / "raw" / name)
    (folder / "raw" / NAMES[-1]).write_bytes(b"PAR1")
    rows = {"URL": urls, "TEXT": TEXTS, "top_caption": TEXTS[::-1], "a column \x1b[2J": TEXTS}
    pq.write_table(pa.table(rows), folder / "coco" / NAMES[0])
    for refused in REFUSED:
        Path(os.fsdecode(os.fsencode(folder / "raw") + b"/" + refused)).write_bytes(b"x")
    for file in folder.rglob("*.parquet"):
        os.utime(file, (DAY.start.timestamp() + 60,) * 2)
    with new_warehouse(postgres) as url, pytest.MonkeyPatch.context() as patch, ranks_in_one_process():
        patch.chdir(folder)
        settings = load_settings(
            laion2b=str(folder / "raw"),
            laion_coco=str(folder / "coco"),
            home=folder / "home",
            model=str(tiny_model),
            warehouse_url=url,
            num_beams=1,
            max_new_tokens=8,
            buckets=2,
        )
        said: list[str] = []
        report = run_pipeline(settings, DAY, accept_rejections=True, say=said.append)
        yield Done(settings, folder, said, report["text"])


ALL_OF_THEM = """
import json, sys
from capsfusion_tasks.cli import main

for argv in json.loads(sys.argv[1]):
    print("---- next", flush=True)
    sys.argv = ["capsfusion", *argv]
    try:
        main()
    except SystemExit:
        pass
"""


@pytest.fixture(scope="module")
def shown(done: Done) -> dict[str, str]:
    """What `status`, `sql` and `validate` print to a terminal.

    All commands run in one process, because imports take longer than the commands.
    """
    source = done.folder / "[bold]\x1b]0;owned\x07.parquet"
    texts = [text.replace("\x00", " ") for text in HOSTILE]
    pq.write_table(pa.table({"laion_2b": texts, "laion_coco": texts, "capsfusion": texts}), source)
    query = "select left(laion_2b, 200) as raw, image_url from fused_captions union all"
    query += " select left(laion_2b, 200), image_url from rejected_captions"
    commands = {
        "status": ["status"],
        **{form: ["sql", query, "--format", form] for form in ("table", "csv", "json", "parquet")},
        "validate": ["validate", str(source), "--report", str(done.folder / "page.html")],
    }
    ours, its = pty.openpty()
    environment = {**os.environ, **done.settings.environment(), "COLUMNS": "160", "TERM": "xterm-256color"}
    argv = [sys.executable, "-c", ALL_OF_THEM, json.dumps(list(commands.values()))]
    process = subprocess.Popen(argv, env=environment, stdin=its, stdout=its, stderr=its, cwd=done.folder)
    os.close(its)
    output = b""
    while True:
        try:
            output += os.read(ours, 1 << 16)
        except OSError:  # it has ended
            break
    os.close(ours)
    process.wait()
    parts = output.decode().replace("\r\n", "\n").split("---- next\n")[1:]
    return dict(zip(commands, parts, strict=True))


def test_captions_are_stored_as_they_came(done: Done) -> None:
    with psycopg.connect(libpq_uri(parse_url(plain_url(done.settings)))) as connection:
        found = connection.execute(
            "select laion_2b, laion_coco from capsfusion.fused_captions"
            " union select laion_2b, laion_coco from capsfusion.rejected_captions"
        ).fetchall()
    stored = [text.replace("\x00", "\ufffd") for text in TEXTS]  # PostgreSQL cannot store NUL
    assert sorted(found) == sorted(zip(stored, stored[::-1], strict=True))
    assert not list(done.folder.rglob("pwned*")), "a shell has read a caption"


def test_a_name_that_cannot_be_kept_holds_up_no_other(done: Done) -> None:
    with psycopg.connect(libpq_uri(parse_url(plain_url(done.settings)))) as connection:
        shards = connection.execute("select path, state from capsfusion.shards where side = 'laion_2b'").fetchall()
    assert dict(shards) == dict.fromkeys(NAMES[:-1], "pulled") | {NAMES[-1]: "failed"}


def test_names_and_errors_are_shown_with_what_cannot_be_seen_spelled_out(done: Done, shown: dict[str, str]) -> None:
    for text in ("\n".join([*done.said, done.report]), shown["status"]):
        assert "\\u202eteuqrap.parquet" in text
        assert not COMMANDS.search(text)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_rows_on_a_terminal_command_nothing(shown: dict[str, str], form: str) -> None:
    assert "drop table" in shown[form]
    assert not COMMANDS.search(shown[form])


def test_parquet_is_kept_from_a_terminal(shown: dict[str, str]) -> None:
    assert "cannot be shown on a terminal" in shown["parquet"]


def test_verdicts_on_a_terminal_command_nothing_and_on_a_page_run_nothing(done: Done, shown: dict[str, str]) -> None:
    assert "accepted" in shown["validate"]
    assert not COMMANDS.search(shown["validate"])
    page = (done.folder / "page.html").read_text()
    assert not re.search("<(script|img|svg)[^>]*(fetch|src=x|onload)", page)
