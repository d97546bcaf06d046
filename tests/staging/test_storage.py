from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.shards.s3 import S3Source
from capsfusion_tasks.staging.storage import Storage
from tests.tls import make_authority, tls_relay


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "area"))


@pytest.fixture(params=["folder", "s3"])
def any_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Each test runs twice: with a storage in a folder, and with a storage in a bucket of a local S3 server."""
    if request.param == "folder":
        return Storage(str(tmp_path))
    return Storage(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}")


def test_a_file_its_name_and_its_new_folders_are_on_the_disk_before_they_are_relied_on(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []

    def syncing(handle: int) -> None:
        what = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if what.is_dir():
            done.append((str(what.relative_to(tmp_path)), " ".join(os.listdir(what))))
        else:
            done.append(("the file", what.read_text()))

    monkeypatch.setattr(os, "fsync", syncing)
    with storage.publish("a/b/c") as stream:
        stream.write(b"whole")
    new_folders = [(".", "area"), ("area", "a"), ("area/a", "b")]
    assert done == [*new_folders, ("the file", "whole"), ("area/a/b", "c")]
    done.clear()
    storage.delete("a/b/c")
    storage.delete_folder("a/b")
    assert done == [("area/a/b", ""), ("area/a", "")]


def test_a_file_that_failed_to_be_written_is_not_there(storage: Storage, tmp_path: Path) -> None:
    def fail() -> None:
        with storage.publish("a/b.bin") as stream:
            stream.write(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert not storage.exists("a/b.bin")
    assert os.listdir(tmp_path / "area" / "a") == []


def test_a_file_that_failed_to_be_replaced_stays_as_it_was(any_storage: Storage) -> None:
    any_storage.write_json("x.json", {"old": True})

    def fail() -> None:
        with any_storage.publish("x.json") as stream:
            stream.write(b"half")
            raise TypeError

    with pytest.raises(TypeError):
        fail()
    assert any_storage.read_json("x.json") == {"old": True}
    assert any_storage.files("") == ["x.json"]


class Interrupted(BaseException):
    """The exception of a signal handler, like Ctrl-C's KeyboardInterrupt and the timeout of an Airflow task."""


def interrupting(times: int) -> Callable[[], None]:
    """A function that interrupts the main thread by a signal, ``times`` times one after the other."""
    raised = threading.Event()

    def handle(*_: object) -> None:
        if not raised.is_set():  # a repeated signal raises once
            raised.set()
            raise Interrupted

    signal.signal(signal.SIGUSR1, handle)

    def interrupt() -> None:
        for _ in range(times):
            raised.clear()
            # Python does not see a signal that comes just before the main thread begins to wait for a lock.
            for _ in range(30):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                if raised.wait(1):
                    break
            else:
                raise AssertionError("no signal interrupted the main thread")

    return interrupt


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("moment", ["just opened", "half written"])
def test_an_interrupted_upload_leaves_the_whole_file(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    storage = Storage(f"{s3_bucket}/{tmp_path.name}")
    storage.write_json("x.json", {"old": True})
    filesystem, handler, closed = storage.filesystem, signal.getsignal(signal.SIGUSR1), threading.Event()
    interrupt = interrupting(times)

    class Interrupting:
        """S3, with uploads that are interrupted."""

        def open_output_stream(self, path: str) -> AbstractContextManager[Interrupting]:
            self._upload = filesystem.open_output_stream(path)
            if moment == "just opened":
                interrupt()
            return self._opened()

        @contextmanager
        def _opened(self) -> Iterator[Interrupting]:
            with self._upload:
                yield self
            closed.set()

        def write(self, content: bytes) -> None:
            if moment == "half written":
                self._upload.write(content[:3])
                interrupt()
                content = content[3:]
            self._upload.write(content)

    monkeypatch.setattr(storage, "filesystem", Interrupting())
    try:
        with pytest.raises(Interrupted):
            storage.write_json("x.json", {"new": True})
    finally:
        signal.signal(signal.SIGUSR1, handler)
    monkeypatch.undo()
    assert closed.wait(30)  # after a second interruption, nobody waits for the upload
    assert storage.read_json("x.json") == {"new": True}


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff"])
def test_a_damaged_json_file_is_named(storage: Storage, content: bytes) -> None:
    with storage.publish("a/x.json") as stream:
        stream.write(content)
    with pytest.raises(
        InputError, match=r"area/a/x\.json is damaged: expected JSON, found \d bytes .* Delete the file"
    ):
        storage.read_json("a/x.json")


def test_what_a_killed_writer_leaves_is_not_listed(storage: Storage, tmp_path: Path) -> None:
    code = (
        "import sys, time; from capsfusion_tasks.staging.storage import Storage\n"
        f"with Storage({str(tmp_path / 'area')!r}).publish('f/x.parquet') as s:\n"
        "    s.write(b'half'); s.flush(); print('writing', flush=True); time.sleep(60)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    assert len(os.listdir(tmp_path / "area" / "f")) == 1
    assert storage.files("f") == []


def test_published_files_can_be_read_by_others(storage: Storage, tmp_path: Path) -> None:
    storage.write_json("x.json", 1)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "area" / "x.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_tables_keep_schema_and_metadata(any_storage: Storage) -> None:
    schema = pa.schema([pa.field("id", pa.binary(16), nullable=False), pa.field("reasons", pa.list_(pa.string()))])
    table = pa.Table.from_pylist([{"id": b"x" * 16, "reasons": ["a"]}], schema=schema)
    any_storage.write_table("t.parquet", table, metadata={"fingerprint": "f"})
    assert any_storage.read_table("t.parquet").replace_schema_metadata(None).equals(table)
    metadata, rows = any_storage.footer("t.parquet")
    assert (metadata["fingerprint"], rows) == ("f", 1)


def test_a_folder_that_is_not_there_has_no_files(any_storage: Storage) -> None:
    assert any_storage.files("nowhere") == []


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("gopher://x", "cannot use gopher://x: gopher:// is not supported; give a folder or s3://bucket/prefix"),
        (
            "gs://bucket/x",
            r"gs:// is not supported; set AWS_ENDPOINT_URL=https://storage\.googleapis\.com and use s3://",
        ),
        ("hdfs://host/x", "hdfs:// is not supported"),
        ("s3:/bucket/x", "there is no // after s3:; write s3://bucket/x, or ./s3:/bucket/x for a folder"),
        ("s3://", "the address names no bucket"),
        ("s3:///x", "the address names no bucket"),
        ("", "an address is empty: give a folder or s3://bucket/prefix"),
        ("~nobody-of-this-name/x", "no such home folder"),
    ],
)
@pytest.mark.timeout(10)
def test_a_location_of_an_unknown_kind_is_refused_at_once(root: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Storage(root)


def test_a_folder_is_found_from_every_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    storages = {path: Storage(given) for given, path in {"a": "a", "~/b": "me/b", f"file://{tmp_path}/c": "c"}.items()}
    monkeypatch.chdir("/")
    for path, storage in storages.items():
        storage.write_json("x.json", 1)
        assert (tmp_path / path / "x.json").exists()
        assert storage.path("x.json") == f"{tmp_path}/{path}/x.json"


def test_what_fits_in_memory_reaches_s3_without_the_temporary_folder(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"{s3_bucket}/{tmp_path.name}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with storage.publish("x.bin") as stream:
        stream.write(bytes(3 << 20))
    assert storage.size("x.bin") == 3 << 20


def test_two_writers_of_one_file_leave_one_whole_file(storage: Storage, tmp_path: Path) -> None:
    code = (
        "import sys; from capsfusion_tasks.staging.storage import Storage\n"
        f"s = Storage({str(tmp_path / 'area')!r})\n"
        "for n in range(200): s.write_json('x.json', [sys.argv[1]] * 1000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "ab"]
    while not storage.exists("x.json"):
        time.sleep(0.01)
    while any(writer.poll() is None for writer in writers):
        assert len(set(storage.read_json("x.json"))) == 1
    assert [writer.wait() for writer in writers] == [0, 0]


def test_a_store_behind_tls_is_trusted_by_the_authority_that_is_named(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    authority = make_authority(tmp_path / "tls")
    with tls_relay(authority, (str(endpoint.hostname), endpoint.port or 0)) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca))
        storage = Storage(f"{s3_bucket}/{tmp_path.name}")
        storage.write_json("a.json", {"a": 1})
        assert storage.read_json("a.json") == {"a": 1}
        source = S3Source(f"{s3_bucket}/{tmp_path.name}")
        assert [file.path for file in source.files(lambda path: True)] == ["a.json"]
        monkeypatch.setenv("AWS_CA_BUNDLE", str(make_authority(tmp_path / "other").ca))
        with pytest.raises(NotReadyError, match="certificate"):
            Storage(s3_bucket).exists("a.json")


@pytest.mark.parametrize("scheme", ["s3", "https"])
def test_an_address_with_a_password_is_refused_and_not_repeated(scheme: str) -> None:
    with pytest.raises(InputError, match="contains a password") as caught:
        Storage(f"{scheme}://AKIAPLANTED:planted@bucket/prefix")
    assert "planted" not in str(caught.value).lower()
