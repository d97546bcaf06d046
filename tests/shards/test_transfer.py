"""Tests downloads from a web server that cuts connections, sends wrong headers, is busy, or refuses requests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.shards import transfer, web_list
from capsfusion_tasks.shards.discovery import discover
from capsfusion_tasks.shards.http import HttpSource
from capsfusion_tasks.shards.retries import TRIES
from capsfusion_tasks.shards.sources import configured_sources, open_source, opened
from capsfusion_tasks.shards.web import http_date
from capsfusion_tasks.staging.storage import Storage
from tests.shards.web_server import Fault, File, WebServer

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))
PART = 10_000
CONTENT = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(1250))  # four parts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PART_BYTES", PART)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def shard(web: WebServer, scratch: Path) -> Shard:
    """A shard that is downloaded in four parts, as discovery lists it."""
    web.files = {"/list.txt": File(b"a.parquet\n"), "/a.parquet": File(CONTENT, arrived=START)}
    (found,) = discovered(web, scratch)
    web.requests.clear()
    return found


def discovered(web: WebServer, scratch: Path, name: str = "list.txt") -> list[Shard]:
    settings = load_settings(laion2b=f"{web.url}/{name}", scratch=scratch)
    storage = Storage(str(scratch.parent / f"staging-{len(list(scratch.parent.iterdir()))}"))
    return discover({"laion_2b": configured_sources(settings)["laion_2b"]}, DAY, storage)


def read(shard: Shard, scratch: Path) -> bytes:
    with open_source(shard.source, load_settings(scratch=scratch)).open(shard) as stream:
        return bytes(stream.read())


def served(web: WebServer, path: str = "/a.parquet") -> int:
    return sum(request.sent for request in web.gets(path))


def test_a_file_comes_in_parallel_parts_and_nothing_stays(web: WebServer, shard: Shard, scratch: Path) -> None:
    assert read(shard, scratch) == CONTENT
    ranges = {request.range for request in web.gets("/a.parquet")}
    assert ranges == {f"bytes={at}-{at + PART - 1}" for at in range(0, 4 * PART, PART)}
    assert served(web) == len(CONTENT)
    assert list(scratch.iterdir()) == []


def test_a_connection_cut_at_half_is_taken_up_at_that_byte(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PART_BYTES", len(CONTENT))
    half = len(CONTENT) // 2
    web.faults["/a.parquet"] = [Fault(cut_after=half)]
    assert read(shard, scratch) == CONTENT
    assert [request.range for request in web.gets("/a.parquet")] == [
        f"bytes=0-{len(CONTENT) - 1}",
        f"bytes={half}-{len(CONTENT) - 1}",
    ]
    assert served(web) == len(CONTENT)


def test_a_retry_of_the_task_asks_for_the_missing_parts_only(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CONNECTIONS", 1)
    web.faults["/a.parquet"] = [Fault(), Fault(), *[Fault(cut_after=0)] * TRIES]
    with pytest.raises(NotReadyError, match=r"/a\.parquet: .*\(try 6 of 6\): try again later"):
        read(shard, scratch)
    assert served(web) == 2 * PART
    assert read(shard, scratch) == CONTENT
    assert served(web) == len(CONTENT)
    assert list(scratch.iterdir()) == []


def test_slow_progress_is_progress(web: WebServer, shard: Shard, scratch: Path) -> None:
    web.faults["/a.parquet"] = [Fault(cut_after=700)] * 40
    assert read(shard, scratch) == CONTENT
    assert served(web) == len(CONTENT)


def test_parts_that_arrived_for_another_version_are_not_used(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CONNECTIONS", 1)
    web.faults["/a.parquet"] = [Fault(), *[Fault(cut_after=0)] * TRIES]
    with pytest.raises(NotReadyError):
        read(shard, scratch)
    web.files["/a.parquet"] = File(CONTENT[::-1], arrived=START)
    (new,) = discovered(web, scratch)
    assert read(new, scratch) == CONTENT[::-1]
    with pytest.raises(InputError, match=r"/a\.parquet has changed since it was discovered"):
        read(shard, scratch)
    assert list(scratch.iterdir()) == []


def test_a_file_of_another_length_is_refused(web: WebServer, shard: Shard, scratch: Path) -> None:
    web.files["/a.parquet"] = File(CONTENT[:-1], arrived=START, etag=shard.etag)
    with pytest.raises(InputError, match=r"has changed since it was discovered \(39999 bytes now, 40000 then\)"):
        read(shard, scratch)
    assert list(scratch.iterdir()) == []


def test_a_body_that_is_shorter_than_announced_does_not_count(web: WebServer, shard: Shard, scratch: Path) -> None:
    web.files["/a.parquet"] = File(CONTENT[:-1], arrived=START, etag=shard.etag, claims=len(CONTENT))
    with pytest.raises(InputError, match="is shorter than when it was discovered"):
        read(shard, scratch)
    web.files["/a.parquet"].ranges = False
    with pytest.raises(NotReadyError, match=r"\(try 6 of 6\)"):
        read(shard, scratch)


def test_a_wrong_checksum_throws_the_copy_away(web: WebServer, scratch: Path) -> None:
    entry = {"url": "a.parquet", "arrived_at": START.isoformat(), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    web.files = {"/list.json": File(json.dumps([entry]).encode()), "/a.parquet": File(CONTENT[::-1])}
    (shard,) = discovered(web, scratch, "list.json")
    with pytest.raises(NotReadyError, match=r"a\.parquet arrived with checksum \w+ instead of"):
        read(shard, scratch)
    assert list(scratch.iterdir()) == []
    web.files["/a.parquet"] = File(CONTENT)
    assert read(shard, scratch) == CONTENT


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_with_growing_waits(
    web: WebServer,
    shard: Shard,
    scratch: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    monkeypatch.setattr(transfer, "_PART_BYTES", len(CONTENT))
    web.faults["/a.parquet"] = [Fault(status)] * 3
    assert read(shard, scratch) == CONTENT
    assert [0.5 <= waits[0] <= 1, 1 <= waits[1] <= 2, 2 <= waits[2] <= 4] == [True] * 3
    assert len(web.gets("/a.parquet")) == 4
    assert [message.partition(" s (")[2] for message in caplog.messages] == [f"try {n} of 6)" for n in (1, 2, 3)]


def test_a_server_says_how_long_to_wait(
    web: WebServer, shard: Shard, scratch: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_PART_BYTES", len(CONTENT))
    web.faults["/a.parquet"] = [Fault(429, {"Retry-After": "17"})]
    assert read(shard, scratch) == CONTENT
    assert waits == [17]
    web.faults["/a.parquet"] = [Fault(503, {"Retry-After": "86400"})]
    with pytest.raises(NotReadyError, match="the server asks to wait 86400 s"):
        read(shard, scratch)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"access to \S+/a\.parquet is refused \(HTTP 401\): put a login for 127\.0\.0\.1 .* into /\S+/netrc"),
        (403, r"access to \S+/a\.parquet is refused \(HTTP 403\)"),
        (404, r"/a\.parquet is not there \(HTTP 404\)"),
        (410, r"/a\.parquet is not there \(HTTP 410\)"),
    ],
)
def test_what_will_not_pass_is_asked_once(
    web: WebServer,
    shard: Shard,
    scratch: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(transfer, "_PART_BYTES", len(CONTENT))
    monkeypatch.setenv("NETRC", str(scratch.parent / "netrc"))
    web.faults["/a.parquet"] = [Fault(status)]
    with pytest.raises(InputError, match=message):
        read(shard, scratch)
    assert (len(web.gets("/a.parquet")), waits) == (1, [])


def test_a_server_without_ranges_works(web: WebServer, shard: Shard, scratch: Path) -> None:
    web.files["/a.parquet"].ranges = False
    web.faults["/a.parquet"] = [Fault()] * 4 + [Fault(cut_after=12_345)]
    assert read(shard, scratch) == CONTENT


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(
    web: WebServer, shard: Shard, scratch: Path
) -> None:
    web.files["/a.parquet"].ranges = False
    web.faults["/a.parquet!"] = [Fault(cut_after=20_000)]
    with pytest.raises(NotReadyError, match=r"\(try 6 of 6\)"):
        read(shard, scratch)


def test_a_server_that_is_not_there_is_worth_another_try(web: WebServer, shard: Shard, scratch: Path) -> None:
    gone = shard.model_copy(update={"source": "http://127.0.0.1:1/list.txt"})
    with pytest.raises(NotReadyError, match=r"http://127\.0\.0\.1:1/a\.parquet: .*refused"):
        read(gone, scratch)


def test_space_is_checked_before_the_first_byte(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100_000, 70_000, 30_000))
    with pytest.raises(
        NotReadyError, match=r"no space for \S+/a\.parquet: it needs .* GB more .* set CAPSFUSION_SCRATCH"
    ):
        read(shard, scratch)
    assert web.gets("/a.parquet") == []


def test_what_is_already_there_needs_no_space(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CONNECTIONS", 1)
    web.faults["/a.parquet"] = [Fault(), Fault(), *[Fault(cut_after=0)] * TRIES]
    with pytest.raises(NotReadyError):
        read(shard, scratch)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100_000, 70_000, 30_000))
    assert read(shard, scratch) == CONTENT


def test_the_copy_is_removed_when_its_reader_fails(shard: Shard, scratch: Path) -> None:
    def fail() -> None:
        with open_source(shard.source, load_settings(scratch=scratch)).open(shard):
            assert len(list(scratch.iterdir())) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(scratch.iterdir()) == []


def test_two_processes_do_not_write_one_copy(shard: Shard, scratch: Path) -> None:
    with open_source(shard.source, load_settings(scratch=scratch)).open(shard) as stream:
        with pytest.raises(NotReadyError, match="another process on this machine is reading"):
            read(shard, scratch)
        assert stream.read() == CONTENT


def test_broken_transfers_that_nobody_takes_up_are_swept_away(shard: Shard, scratch: Path) -> None:
    old, young = "0" * 16, "1" * 16
    for name, age in ((old, timedelta(days=8)), (young, timedelta(days=6)), ("photos", timedelta(days=8))):
        (scratch / name).mkdir(parents=True)
        when = (datetime.now(UTC) - age).timestamp()
        os.utime(scratch / name, (when, when))
    read(shard, scratch)
    assert {path.name for path in scratch.iterdir()} == {young, "photos"}  # files of other programs stay


def test_a_failing_part_ends_the_others(web: WebServer, shard: Shard, scratch: Path) -> None:
    web.faults["/a.parquet"] = [Fault(403)]
    # Other tests may have used libraries whose threads are still running.
    before = threading.enumerate()
    with pytest.raises(InputError, match="refused"):
        read(shard, scratch)
    new = [thread for thread in threading.enumerate() if thread not in before]
    assert not [thread for thread in new if "ThreadPoolExecutor" in thread.name]


# ---- lists ----


def test_a_list_names_files_by_line(web: WebServer, scratch: Path) -> None:
    listed = f"# shards\n\ndeep/a.parquet\nnotes.txt\n{web.url}/data/b.parquet\n/c.parquet?v=1\ndeep/a.parquet\n"
    web.files = {f"/data/{name}": File(b"123", arrived=START) for name in ("deep/a.parquet", "b.parquet")}
    web.files |= {"/data/list.txt": File(listed.encode()), "/c.parquet": File(b"12345", arrived=START)}
    found = discovered(web, scratch, "data/list.txt")
    assert [(shard.path, shard.size_bytes) for shard in found] == [
        ("/c.parquet?", 5),
        ("b.parquet", 3),
        ("deep/a.parquet", 3),
    ]
    assert [len(read(shard, scratch)) for shard in found] == [5, 3, 3]
    assert {shard.arrived_at for shard in found} == {START}


def test_a_list_may_name_files_by_any_way_to_them(web: WebServer, scratch: Path) -> None:
    ways = {
        "./a.parquet": "a.parquet",
        "a.parquet": "a.parquet",
        "b/../b/./b.parquet?sig=1": "b/b.parquet?",
        "../other/c.parquet": f"{web.url}/other/c.parquet",
        "/_mirror/d.parquet": f"{web.url}/_mirror/d.parquet",
        f"{web.url}/_mirror/e.parquet": f"{web.url}/_mirror/e.parquet",
    }
    hidden = ["_tmp/x.parquet", "./.x.parquet", "/data/_tmp/x.parquet", "../other/_x.parquet"]
    web.files = {
        "/data/list.txt": File("\n".join([*ways, *hidden]).encode()),
        **{f"/data/{name}": File(b"123", arrived=START) for name in ("a.parquet", "b/b.parquet")},
        **{
            path: File(b"123", arrived=START)
            for path in ("/other/c.parquet", "/_mirror/d.parquet", "/_mirror/e.parquet")
        },
    }
    found = discovered(web, scratch, "data/list.txt")
    assert [shard.path for shard in found] == sorted(set(ways.values()))
    assert [read(shard, scratch) for shard in found] == [b"123"] * 5


def test_a_server_that_refuses_head_or_sends_no_etag_works(web: WebServer, scratch: Path) -> None:
    web.files = {
        "/list.txt": File(b"a.parquet"),
        "/a.parquet": File(CONTENT, arrived=START, etag=None, head_status=405),
    }
    (shard,) = discovered(web, scratch)
    assert shard.etag == f"40000-{START.timestamp():.0f}"
    assert read(shard, scratch) == CONTENT
    web.files["/a.parquet"].arrived = START + timedelta(seconds=1)
    with pytest.raises(InputError, match="has changed"):
        read(shard, scratch)


def test_a_file_without_a_date_needs_a_list_that_gives_one(web: WebServer, scratch: Path) -> None:
    web.files = {"/list.txt": File(b"a.parquet"), "/a.parquet": File(CONTENT)}
    (shard,) = discovered(web, scratch)
    with (
        pytest.raises(InputError, match=r"a\.parquet has no Last-Modified, .*json list that gives arrived_at"),
        opened(shard, load_settings(scratch=scratch)),
    ):
        pass
    entries = [{"url": "a.parquet", "arrived_at": START.isoformat()}, "b.parquet"]
    web.files["/list.json"] = File(json.dumps(entries).encode())
    web.files["/b.parquet"] = File(CONTENT, arrived=DAY.end)
    assert [shard.path for shard in discovered(web, scratch, "list.json")] == ["a.parquet"]


def test_a_member_for_which_the_server_fails_is_left_out_and_a_server_that_is_down_is_waited_for(
    web: WebServer, scratch: Path
) -> None:
    web.files = {f"/{n}.parquet": File(CONTENT, arrived=START, head_status=503 if n < 3 else 200) for n in range(5)}
    web.files["/list.txt"] = File(b"".join(b"%d.parquet\n" % n for n in range(5)))
    found = discovered(web, scratch)
    assert [bool(shard.problem) for shard in found] == [True, True, True, False, False]
    assert found[0].problem.endswith("/0.parquet: the server answers HTTP 503 (try 6 of 6): try again later")
    web.files["/3.parquet"].head_status = 503
    with pytest.raises(NotReadyError, match=r"/3\.parquet: the server answers HTTP 503"):
        discovered(web, scratch)


@pytest.mark.parametrize("date", ["Fri, 31 Dec 9999 23:59:59 -0100", "Sat, 01 Jan 10000 00:00:00 GMT", "yesterday"])
def test_a_date_that_no_calendar_has_is_none(date: str) -> None:
    assert http_date(date) is None


def test_a_member_that_cannot_be_described_fails_alone(web: WebServer, scratch: Path) -> None:
    entries = ["a.parquet", "gone.parquet", {"url": "lost.parquet", "arrived_at": DAY.end.isoformat()}]
    web.files = {"/list.json": File(json.dumps(entries).encode()), "/a.parquet": File(CONTENT, arrived=START)}
    found = discovered(web, scratch, "list.json")
    # The third shard arrived in another interval. Only the run of that interval reports the shard.
    assert [(shard.path, shard.problem) for shard in found] == [
        ("a.parquet", ""),
        ("gone.parquet", f"{web.url}/gone.parquet is not there (HTTP 404): check the address, or put the file back"),
    ]
    assert read(found[0], scratch) == CONTENT


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("list.json", b'{"files": []}', "Input should be a valid array"),
        ("list.json", b"[1]", "entry 0: Input should be a valid string"),
        ("list.json", b"[", "Invalid JSON"),
        ("list.json", b"[" * 100_000, "Invalid JSON: recursion limit exceeded"),
        ("list.json", b'[{"url": "a", "arrived_at": "2026-11-10"}]', "entry 0"),
        ("list.json", b'[{"url": "a", "arrived_at": "9999-12-31T23:59:59-01:00"}]', "entry 0"),
        ("list.json", b"\n<!DOCTYPE html><html>", "it is a web page"),
        ("list.txt", b"\xef\xbb\xbf<html>", "it is a web page"),
        ("list.txt", b"PAR1\x15\x04\x15", "it is not text; give the address of the list, not of a shard"),
        ("list.txt", "übermaß.parquet".encode("latin-1"), "it is not UTF-8"),
        ("list.txt", b"# size\na.parquet?sig=secret\t1234\n", r"line 2 is not one address, 'a\.parquet'"),
        ("list.txt", b"not found on this server", "line 1 is not one address"),
        ("list.txt", b"a.parquet\n" * 400_000, "it is longer than 3 MiB"),
        ("list.txt", b"a.parquet\n" * 200_001, "it has more than 200,000 lines"),
        ("list.json", b"[" + b'"",' * 200_000 + b'""]', "List should have at most 200000 items"),
    ],
)
def test_what_is_no_list_is_refused(
    web: WebServer, scratch: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: bytes, problem: str
) -> None:
    monkeypatch.setattr(web_list, "_LONGEST", 3 << 20)
    web.files = {f"/{name}": File(text)}
    with pytest.raises(InputError, match=rf"/{name} is not a list of files: {problem}.*; expected") as caught:
        discovered(web, scratch, name)
    assert "secret" not in str(caught.value)


def test_a_file_in_place_of_a_list_is_not_read_to_its_end(web: WebServer, scratch: Path) -> None:
    web.files = {"/list.txt": File(b"PAR1\0" + bytes(64 << 20))}
    web.requests.clear()
    with pytest.raises(InputError, match="it is not text"):
        discovered(web, scratch)
    assert served(web, "/list.txt") < 64 << 20


@pytest.mark.parametrize("entry", ["s3://bucket/a.parquet", "http://[::1/a.parquet"])
def test_an_entry_that_is_no_web_address_is_named(web: WebServer, scratch: Path, entry: str) -> None:
    web.files = {"/list.txt": File(f"b.parquet\n{entry}\n".encode())}
    with pytest.raises(InputError, match=rf"/list\.txt names {re.escape(entry)}[:,] "):
        discovered(web, scratch)


def test_an_address_that_is_signed_for_get_alone_is_read(web: WebServer, scratch: Path) -> None:
    web.files = {"/list.txt": File(b"a.parquet?sig=1"), "/a.parquet": File(CONTENT, arrived=START, head_status=403)}
    (shard,) = discovered(web, scratch)
    assert read(shard, scratch) == CONTENT


@pytest.mark.parametrize("text", ["bogus", "machine"])
def test_a_netrc_that_cannot_be_read_is_named(
    web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    netrc = scratch.parent / "netrc"
    netrc.write_text(text)
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(InputError, match=r"cannot read the logins in \S+/netrc: "):
        read(shard, scratch)


def test_a_password_in_the_address_is_refused(web: WebServer, scratch: Path) -> None:
    with pytest.raises(InputError, match=r"put the password into ~/\.netrc") as caught:
        HttpSource("https://me:secret@host/list.txt", scratch)
    assert "secret" not in str(caught.value)


def test_a_login_comes_from_netrc(web: WebServer, shard: Shard, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = scratch.parent / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    read(shard, scratch)
    assert {request.authorization for request in web.requests} == {"Basic bWU6c2VjcmV0"}
