"""Interrupts loads. After any fault, a repeated load must leave each row in the tables exactly once."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import URL, Connection, text

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.load import SESSION, LoadResult, load_unit
from capsfusion_tasks.warehouse.socket_folder import PORT
from tests.warehouse.conftest import in_threads, merge_held, plan, rows
from tests.warehouse.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.slow

ROWS = 300


def unit(warehouse: Warehouse, number: int) -> tuple[str, pa.Table]:
    """Plan the unit with this number. Returns its id and rows, a tenth of them rejected. No two units share rows."""
    unit_id, numbers = f"u{number}", range(number * ROWS, (number + 1) * ROWS)
    plan(warehouse, (unit_id, ROWS))
    return unit_id, rows(*numbers, rejected={row: ["loop"] for row in numbers[::10]})


def assert_each_row_is_there_once(warehouse: Warehouse, units: int) -> None:
    with warehouse.engine.connect() as connection:
        assert violations(connection) == []
        stored = text(
            "select count(*), count(distinct pair_id) from (select pair_id from capsfusion.fused_captions"
            " union all select pair_id from capsfusion.rejected_captions) every"
        )
        assert connection.execute(stored).one() == (units * ROWS, units * ROWS)


def assert_retry_completes(warehouse: Warehouse, number: int, *, committed: bool) -> None:
    unit_id, table = unit(warehouse, number)
    assert load_unit(warehouse, unit_id, table) == LoadResult(ROWS * 9 // 10, ROWS // 10, already_loaded=committed)


# -- The server is killed ---------------------------------------------------------------------------------------------

# Pauses a load at the point that capsfusion.pause_at names: when it inserts a certain row, or before it commits.
PAUSES = """
create function capsfusion.pause() returns trigger language plpgsql as $$
begin
    if current_setting('capsfusion.pause_at', true) = tg_argv[0] then perform pg_sleep(600); end if;
    return null;
end $$;
create trigger pause after insert on capsfusion.fused_captions for each row when (mod(new.laion_hash, 300) = 101)
execute function capsfusion.pause('merge');
create constraint trigger pause after update on capsfusion.work_units deferrable initially deferred for each row
execute function capsfusion.pause('commit');
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose server has fsync on, so that data survive a crash. Loads can be paused."""
    home = tmp_path_factory.mktemp("killed")
    with open_warehouse(Settings(home=home)) as warehouse:
        with warehouse.engine.begin() as connection:
            connection.exec_driver_sql(PAUSES)
        with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # In a session with synchronous_commit = on, a commit is written, then waits forever for this standby.
            connection.execute(text("alter system set synchronous_standby_names = 'nobody'"))
            connection.execute(text("alter system set synchronous_commit = local"))
            connection.execute(text("select pg_reload_conf()"))
    return home


def wait_for(connection: Connection, event: str) -> None:
    """Wait until an active session of the server waits for ``event``, a wait_event of PostgreSQL."""
    query = text("select count(*) from pg_stat_activity where state = 'active' and wait_event = :event")
    for _ in range(300):
        if connection.scalar(query, {"event": event}):
            return
        time.sleep(0.1)
    raise AssertionError(f"no load waits for {event}")


def kill(data: Path) -> None:
    """Kill all processes of the server with data folder ``data``."""
    server = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
    for process in [server, *server.children(recursive=True)]:
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "options", "event", "committed"),
    [
        (0, None, "ClientRead", False),
        (1, "-c capsfusion.pause_at=merge", "PgSleep", False),
        (2, "-c capsfusion.pause_at=commit", "PgSleep", False),
        (3, "-c synchronous_commit=on", "SyncRep", True),
    ],
    ids=["while it takes rows", "while it merges", "before its commit", "after its commit, before the client knows"],
)
def test_a_server_that_is_killed_under_a_load(
    home: Path, number: int, options: str | None, event: str, committed: bool
) -> None:
    with (
        open_warehouse(Settings(home=home)) as warehouse,
        CuttingProxy(socket_of(warehouse), 20_000, stall=True) as net,
    ):
        unit_id, table = unit(warehouse, number)
        way = through(net, warehouse) if options is None else warehouse.url.update_query_dict({"options": options})
        results: list[object] = []
        load = partial(load_unit, Warehouse(warehouse.engine, way), unit_id, table)
        loading = threading.Thread(target=lambda: results.extend(in_threads(load)))
        loading.start()
        with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if options is None:
                assert net.reached.wait(60)
            wait_for(connection, event)
        kill(home / "postgres")
        loading.join(60)
        assert [type(result) for result in results] == [NotReadyError]
    with open_warehouse(Settings(home=home)) as warehouse:
        assert_retry_completes(warehouse, number, committed=committed)
        with warehouse.engine.connect() as connection:
            loaded = connection.scalars(text("select unit_id from capsfusion.work_units where state = 'loaded'")).all()
        assert_each_row_is_there_once(warehouse, len(loaded))


# -- The network is cut -----------------------------------------------------------------------------------------------


def socket_of(warehouse: Warehouse) -> Path:
    return Path(str(warehouse.url.query["host"]), f".s.PGSQL.{PORT}")


def through(net: CuttingProxy, warehouse: Warehouse) -> URL:
    """The warehouse's URL, changed so that connections go through the proxy ``net``."""
    return warehouse.url.set(host="127.0.0.1", port=net.port, query={})


def load_over(net: CuttingProxy, warehouse: Warehouse, number: int) -> LoadResult:
    return load_unit(Warehouse(warehouse.engine, through(net, warehouse)), *unit(warehouse, number))


def test_a_network_that_is_cut_after_so_many_bytes(warehouse: Warehouse) -> None:
    with CuttingProxy(socket_of(warehouse)) as net:
        assert load_over(net, warehouse, 0) == LoadResult(ROWS * 9 // 10, ROWS // 10, already_loaded=False)
    statements = net.from_client - 20_000  # all rows are sent before the last 20,000 bytes or so
    cuts = [*range(0, 2000, 400), *range(2000, statements, statements // 5), *range(statements, net.from_client, 2000)]
    for number, after in enumerate(cuts, start=1):
        with CuttingProxy(socket_of(warehouse), after) as net, pytest.raises(NotReadyError, match="try again"):
            load_over(net, warehouse, number)
        assert_retry_completes(warehouse, number, committed=False)
    assert_each_row_is_there_once(warehouse, 1 + len(cuts))


@pytest.mark.parametrize(("at", "committed"), [("commit", False), ("answer to commit", True)])
def test_a_network_that_is_cut_at_the_commit(
    warehouse: Warehouse, at: Literal["commit", "answer to commit"], committed: bool
) -> None:
    with CuttingProxy(socket_of(warehouse), at=at) as net, pytest.raises(NotReadyError, match="try again"):
        load_over(net, warehouse, 0)
    assert_retry_completes(warehouse, 0, committed=committed)
    assert_each_row_is_there_once(warehouse, 1)


def test_a_client_that_silently_goes_does_not_keep_others_waiting(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SESSION, "idle_in_transaction_session_timeout", "1s")
    with CuttingProxy(socket_of(warehouse), at="commit", stall=True) as net:
        results: list[object] = []
        lost = threading.Thread(target=lambda: results.extend(in_threads(lambda: load_over(net, warehouse, 0))))
        lost.start()
        assert net.reached.wait(60)
        assert_retry_completes(warehouse, 0, committed=False)
    lost.join(60)
    assert [type(result) for result in results] == [NotReadyError]
    assert_each_row_is_there_once(warehouse, 1)


# -- Loads at the same time -------------------------------------------------------------------------------------------

LOAD = """
import sys, pyarrow.parquet as pq
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.load import load_unit
url, unit_id, path = sys.argv[1:]
with open_warehouse(Settings(warehouse_url=url)) as warehouse:
    print(load_unit(warehouse, unit_id, pq.read_table(path)).already_loaded)
"""


def test_processes_that_load_at_the_same_time(warehouse: Warehouse, connection: Connection, tmp_path: Path) -> None:
    """Two processes load the same unit. A third process loads another unit."""
    url = warehouse.url.render_as_string(hide_password=False)
    processes = []
    with merge_held(warehouse):
        for number in (0, 0, 1):
            unit_id, table = unit(warehouse, number)
            pq.write_table(table, tmp_path / unit_id)
            command = [sys.executable, "-c", LOAD, url, unit_id, tmp_path / unit_id]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        waiting = text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
        while connection.scalar(waiting) < len(processes):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.05)
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (sorted(said[:2]), said[2]) == (["False", "True"], "False")
    assert_each_row_is_there_once(warehouse, 2)
