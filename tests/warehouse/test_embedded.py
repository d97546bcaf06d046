"""Tests the embedded server: how it is started, shared, stopped, and started after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse import server_process
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres, embedded_postgres
from tests.faults.workload import copy_home

pytestmark = pytest.mark.slow


def ask(server: EmbeddedPostgres, database: str, query: str) -> object:
    url = server.url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def postmaster(home: Path) -> psutil.Process | None:
    try:
        process = psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().split()[0]))
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server has been started once."""
    home = tmp_path_factory.mktemp("made")
    with embedded_postgres(home):
        pass
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made``, for tests of what comes after initdb, which takes two seconds."""
    copy_home(made, tmp_path)
    return tmp_path


def test_runs_while_it_is_used_and_keeps_its_data(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path, ["capsfusion", "airflow"]) as outer:
        ask(outer, "airflow", "create table kept as select 7 as n")
        with embedded_postgres(tmp_path) as inner:
            assert inner.url() == outer.url()
        assert ask(outer, "capsfusion", "select current_setting('server_encoding')") == "UTF8"
    assert postmaster(tmp_path) is None
    with embedded_postgres(tmp_path) as again:
        assert ask(again, "airflow", "select n from kept") == 7


def test_a_server_that_hangs_while_it_stops_is_ended_and_keeps_its_data(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "STOP_TIMEOUT", 1)
    with embedded_postgres(home) as server:
        ask(server, "capsfusion", "create table kept as select 7 as n")
        hanging = postmaster(home)
        assert hanging is not None
        # Suspend the checkpointer, for which the server's shutdown waits.
        for child in hanging.children():
            with suppress(psutil.NoSuchProcess):  # some backends may already have ended
                if "checkpointer" in " ".join(child.cmdline()):
                    child.suspend()
        hanging.send_signal(signal.SIGINT)  # as if the process that requested the shutdown had ended
        pid_file = home / "postgres" / "postmaster.pid"
        while "stopping" not in pid_file.read_text():
            time.sleep(0.01)
        with embedded_postgres(home) as again:
            assert ask(again, "capsfusion", "select n from kept") == 7
            assert postmaster(home) != hanging


def test_processes_share_one_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    user = (
        "import sys, pathlib\n"
        "from capsfusion_tasks.warehouse.embedded import embedded_postgres\n"
        "with embedded_postgres(pathlib.Path(sys.argv[1])) as server:\n"
        "    print((server.data / 'postmaster.pid').read_text().split()[0], flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    users = [
        subprocess.Popen([sys.executable, "-c", user, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert len({process.stdout.readline() for process in users if process.stdout}) == 1
    users[0].kill()  # this process ends without releasing the server
    users[0].communicate()
    for process in users[1:]:
        assert postmaster(tmp_path) is not None
        process.communicate(b"\n")
        assert process.returncode == 0
    assert postmaster(tmp_path) is None


def test_threads_start_it_once(tmp_path: Path) -> None:
    inside = threading.Barrier(4, timeout=60)
    answers: list[object] = []

    def use() -> None:
        with embedded_postgres(tmp_path) as server:
            inside.wait()
            answers.append(ask(server, "capsfusion", "select pg_postmaster_start_time()"))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
    assert postmaster(tmp_path) is None


@pytest.mark.parametrize("folder", ["x" * 150, "with space, comma$(and) 'more\" ünïcode"], ids=["long", "unusual"])
def test_any_path_will_do(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    with embedded_postgres(home) as server:
        assert len(str(server.socket_folder)) < 100
        assert ask(server, "capsfusion", "select 1") == 1
    assert server.socket_folder == server.data or not server.socket_folder.exists()


def test_a_link_to_another_place_is_not_followed(made: Path, tmp_path: Path) -> None:
    home = tmp_path / ("x" * 150)
    copy_home(made, home)
    with embedded_postgres(home) as server:
        link = server.socket_folder
    link.symlink_to(tmp_path)
    with pytest.raises(InputError, match="is not this user's link to"), embedded_postgres(home):
        pass
    link.unlink()


@pytest.mark.parametrize("heir", ["nobody", "another process"])
def test_starts_after_a_crash_whoever_has_its_process_id_now(home: Path, heir: str) -> None:
    with embedded_postgres(home) as server:
        ask(server, "capsfusion", "create table kept as select 7 as n")
        killed = postmaster(home)
        assert killed is not None
        family = [killed, *killed.children(recursive=True)]
        for process in family:
            process.send_signal(signal.SIGKILL)
    pid_file = server.data / "postmaster.pid"
    if heir == "another process":
        lines = pid_file.read_text().split("\n")
        pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    with embedded_postgres(home) as again:
        assert ask(again, "capsfusion", "select n from kept") == 7


def test_a_folder_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    with (
        pytest.raises(InputError, match=r"postgres is not the data folder .* move this folder away"),
        embedded_postgres(tmp_path),
    ):
        pass


def test_a_database_of_another_release_is_named(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(InputError, match=r"made by PostgreSQL 16"), embedded_postgres(tmp_path):
        pass


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="set CAPSFUSION_HOME"), embedded_postgres(tmp_path / "file" / "home"):
        pass
