"""PostgreSQL's errors become NotReadyError if a retry may succeed, and InputError if the user must act."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import get_args

import pytest
from sqlalchemy import Engine, column, select, text

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import ledger, ownership
from capsfusion_tasks.warehouse.adbc_session import WITHOUT_COPY, adbc_session, stream
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres, embedded_postgres
from capsfusion_tasks.warehouse.handshake import failed_handshake
from capsfusion_tasks.warehouse.locks import Kind, lock_key, lock_sql
from capsfusion_tasks.warehouse.roles import LOADER, READER
from tests.conftest import login
from tests.warehouse.conftest import plan

ENCRYPTION = b"\x04\xd2"  # these bytes mark a message that requests encryption (SSLRequest, GSSENCRequest)
READ_ONLY = "options=-c%20default_transaction_read_only%3Don"


@contextmanager
def server(answer: bytes) -> Iterator[int]:
    """Start a server that refuses encryption, then sends ``answer`` to every client. Yields its port."""

    def answer_one(client: socket.socket) -> None:
        with client:
            while client.recv(8)[4:6] == ENCRYPTION:
                client.sendall(b"N")
            client.recv(1000)  # the rest of the startup message
            client.sendall(answer)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    client = listening.accept()[0]
                except OSError:
                    return
                answer_one(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def error_response(sqlstate: str, said: str) -> bytes:
    fields = b"".join(f"{name}{value}\0".encode() for name, value in (("S", "FATAL"), ("C", sqlstate), ("M", said)))
    return b"E" + (len(fields) + 5).to_bytes(4) + fields + b"\0"


@pytest.mark.parametrize(
    ("sqlstate", "said", "expected"),
    [
        ("28P01", "Passwort-Authentifizierung für Benutzer »me« fehlgeschlagen", InputError),
        ("28000", "kein pg_hba.conf-Eintrag für Host »db«", InputError),
        ("3D000", "la base de données « captions » n'existe pas", InputError),
        ("42501", "keine Berechtigung für Datenbank »captions«", InputError),
        ("53300", "Verbindungslimit überschritten: does not exist", NotReadyError),
        ("57P03", "das Datenbanksystem startet", NotReadyError),
    ],
)
def test_a_refusal_is_understood_in_any_language(sqlstate: str, said: str, expected: type[Exception]) -> None:
    with server(error_response(sqlstate, said)) as port:
        with (
            pytest.raises(expected, match=said[:20]),
            open_warehouse(Settings(warehouse_url=f"postgresql://me:secret@127.0.0.1:{port}/captions")),
        ):
            pass
        assert failed_handshake(f"host=127.0.0.1 port={port}").sqlstate == sqlstate


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [("sslmode=require", InputError), ("sslmode=bogus", InputError), ("sslmode=disable", NotReadyError)],
)
def test_a_connection_that_libpq_itself_gives_up(parameters: str, expected: type[Exception]) -> None:
    with (
        server(b"") as port,
        pytest.raises(expected),
        open_warehouse(Settings(warehouse_url=f"postgresql://me@127.0.0.1:{port}/captions?{parameters}")),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value", "embedded"),
    [
        ("PGOPTIONS", "-c no_such=1", True),
        ("PGTZ", "No/Where", True),
        ("PGDATESTYLE", "x", True),
        ("PGSERVICE", "nowhere", True),
        ("PGSSLMODE", "x", False),
        ("PGTARGETSESSIONATTRS", "x", False),
    ],
)
def test_a_variable_of_libpq_that_cannot_work_is_named(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, name: str, value: str, embedded: bool
) -> None:
    folder = postgres.socket_folder
    # This variable is set, but it is not the cause of the error, so the error must not name it.
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
    monkeypatch.setenv(name, value)
    with (
        pytest.raises(InputError, match=f"; check CAPSFUSION_WAREHOUSE_URL and {name}"),
        open_warehouse(Settings(warehouse_url=f"postgresql://postgres@/empty?host={folder}&port=5432")),
    ):
        pass
    if embedded:
        with (
            pytest.raises(InputError, match=f"; correct or unset {name}"),
            embedded_postgres(postgres.data.parent),
        ):
            pass


def test_a_variable_of_libpq_that_a_server_may_satisfy_later_is_named_too(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    url = f"postgresql://postgres@/empty?host={postgres.socket_folder}&port=5432"
    with (
        pytest.raises(NotReadyError, match="check CAPSFUSION_WAREHOUSE_URL and PGTARGETSESSIONATTRS, or unset the URL"),
        open_warehouse(Settings(warehouse_url=url)),
    ):
        pass


def test_a_read_only_warehouse_is_found_before_anything_is_fused(warehouse: Warehouse, warehouse_url: str) -> None:
    plan(warehouse, ("u1", 1))
    with (
        open_warehouse(Settings(warehouse_url=f"{warehouse_url}&{READ_ONLY}")) as standby,
        pytest.raises(NotReadyError, match="is read-only: name the primary"),
        ownership.at_work(standby.engine, "u1"),
    ):
        pytest.fail("a unit is being fused")


def test_a_write_to_a_read_only_warehouse_is_no_traceback(warehouse_url: str) -> None:
    with (
        pytest.raises(NotReadyError, match="is read-only: name the primary"),
        open_warehouse(Settings(warehouse_url=f"{warehouse_url}&{READ_ONLY}")) as standby,
    ):
        plan(standby, ("u1", 1))


def work(engine: Engine) -> None:
    with ownership.at_work(engine, "u1"):
        pass


def plan_nothing(engine: Engine) -> None:
    with ledger.planning_lock(engine, "f1"):
        pass


@pytest.mark.parametrize("begin", [plan_nothing, work])
def test_a_login_that_cannot_load_neither_plans_nor_fuses(
    postgres: EmbeddedPostgres, warehouse: Warehouse, warehouse_url: str, begin: Callable[[Engine], None]
) -> None:
    with open_warehouse(Settings(warehouse_url=login(postgres, warehouse_url, LOADER))) as loader:
        begin(loader.engine)
        with warehouse.engine.begin() as connection:
            connection.execute(text(f"revoke insert on capsfusion.rejected_captions from {LOADER}"))
        with pytest.raises(InputError, match="it lacks insert on rejected_captions; ask an administrator"):
            begin(loader.engine)
    with (
        open_warehouse(Settings(warehouse_url=login(postgres, warehouse_url, READER))) as reader,
        pytest.raises(InputError, match=r"insert on fused_captions.*grant capsfusion_loader"),
    ):
        begin(reader.engine)


def test_a_login_without_a_right_gets_one_line(postgres: EmbeddedPostgres, warehouse_url: str) -> None:
    with (
        pytest.raises(InputError, match="refuses the request: permission denied for table fusions"),
        open_warehouse(Settings(warehouse_url=login(postgres, warehouse_url, READER))) as reader,
    ):
        plan(reader, ("u1", 1))


def test_a_path_that_is_too_long_for_its_index_is_an_input_error(settings: Settings) -> None:
    # Random text, so that it is too long for the index even when it is compressed.
    path = "".join(sha256(str(number).encode()).hexdigest() for number in range(100))
    found = Shard.model_validate(
        {
            "source": "/data",
            "path": path,
            "etag": "1",
            "shard_id": "s1",
            "side": "laion_2b",
            "size_bytes": 1,
            "arrived_at": "2026-11-10T00:00:00Z",
        }
    )
    with (
        pytest.raises(InputError, match="refuses the request: index row size"),
        open_warehouse(settings) as warehouse,
        warehouse.engine.begin() as connection,
    ):
        ledger.record_shards(connection, [found])


def test_a_load_whose_client_was_suspended_may_be_tried_again(warehouse: Warehouse) -> None:
    def suspended() -> None:
        with adbc_session(warehouse) as connection, connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor:
            cursor.execute("set idle_in_transaction_session_timeout = '10ms'")
            time.sleep(0.2)
            cursor.execute("select 1")

    with pytest.raises(NotReadyError, match="try again"):
        suspended()


@pytest.mark.parametrize(
    ("statement", "query", "error", "said"),
    [
        ("set statement_timeout = '100ms'", "select pg_sleep(30)", NotReadyError, "statement timeout; try again"),
        ("set temp_file_limit = '1MB'", "select md5(g::text) from many order by 1", NotReadyError, "temp_file_limit"),
        ("select 1", "select 1 / (100000 - g) from many", InputError, "refuses the request: division by zero"),
    ],
    ids=["cancelled", "disk full", "bad value"],
)
def test_a_streamed_query_that_ends_in_the_middle_is_tried_again_unless_it_is_wrong(
    warehouse: Warehouse, statement: str, query: str, error: type[Exception], said: str
) -> None:
    def read_all() -> None:
        with adbc_session(warehouse, read_only=True) as connection, connection.cursor() as cursor:
            with connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as before:
                before.execute("set work_mem = '64kB'")
                before.execute(statement)
            many = "with many as (select generate_series(1, 200000) as g)"
            _, batches = stream(warehouse, connection, cursor, f"{many} {query}")
            for _ in batches:
                pass

    with pytest.raises(error, match=said):
        read_all()


def test_a_lock_has_one_number_in_every_statement_and_another_for_each_kind(warehouse: Warehouse) -> None:
    with warehouse.engine.connect() as connection:
        connection.execute(text("create temp table names as select 'f1' as name"))
        by_column = connection.scalar(select(lock_key("load", column("name"))).select_from(text("names")))
        of_kinds = [connection.scalar(select(lock_key(kind, "f1"))) for kind in get_args(Kind)]
        [in_sql] = connection.exec_driver_sql(f"select {lock_sql('load').replace('$1', '%s')}", ("f1",)).one()
    assert by_column == in_sql
    assert in_sql in of_kinds
    assert len(set(of_kinds)) == len(get_args(Kind))
