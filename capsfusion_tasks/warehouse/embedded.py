"""The embedded PostgreSQL: a real server in ``<home>/postgres`` that runs while at least one process uses it.

Each process that uses the server holds a file lock. The kernel releases the lock when the process ends, even by
SIGKILL, so a dead process never keeps the server running. Clients connect through a Unix socket in the data folder
(mode 0700), which only its owner can reach. ``server_process.py`` starts and stops the server.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import URL

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse import libpq_variables, server_process
from capsfusion_tasks.warehouse.handshake import failed_handshake
from capsfusion_tasks.warehouse.socket_folder import PORT, link_to, socket_folder
from capsfusion_tasks.warehouse.sqlstates import lasts, one_line

CANNOT_CONNECT_NOW = "57P03"  # SQLSTATE of a server that is still starting up
# Values for options that libpq would otherwise take from PG… variables, such as PGSSLMODE=verify-full. Users set these
# variables for other servers.
_PARAMETERS = {
    "hostaddr": "",
    "sslmode": "disable",
    "sslrootcert": "",
    "gssencmode": "disable",
    "channel_binding": "disable",
    "require_auth": "none",
    "target_session_attrs": "any",
    "load_balance_hosts": "disable",
    "connect_timeout": "10",
}


def is_embedded(url: URL) -> bool:
    """Whether ``url`` belongs to an embedded server."""
    # SQLAlchemy's URLs leave out parameters with an empty value, so compare only parameters with a value.
    return all(url.query.get(name) == value for name, value in _PARAMETERS.items() if value)


@dataclass(frozen=True)
class EmbeddedPostgres:
    """An embedded server: its data folder, and the folder of its socket."""

    data: Path
    socket_folder: Path

    def url(self, database: str = "capsfusion", driver: str = "psycopg") -> URL:
        """The SQLAlchemy URL of ``database`` for a driver, such as ``psycopg`` or ``psycopg2``."""
        query = {"host": str(self.socket_folder), "port": str(PORT)}
        # A URL for psycopg2 gets no _PARAMETERS: Airflow converts such a URL to one for asyncpg, which refuses them.
        if driver == "psycopg":
            query |= _PARAMETERS
        return URL.create(f"postgresql+{driver}", username=server_process.SUPERUSER, database=database, query=query)


def server_of(home: Path) -> EmbeddedPostgres:
    """The server of ``home``, which need not run yet. With this, callers know its URLs before it starts."""
    data = home.resolve() / "postgres"
    return EmbeddedPostgres(data, socket_folder(data))


@contextmanager
def embedded_postgres(home: Path, databases: Sequence[str] = ("capsfusion",)) -> Iterator[EmbeddedPostgres]:
    """The server of ``home`` with ``databases``. The first process that needs the server starts it; the last stops it.

    Any number of processes and threads can use the server at the same time. Raises InputError for a folder that cannot
    be used, and NotReadyError if the server does not start.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        home = home.resolve()
        gate, users = (open(home / name, "a") for name in (".postgres.gate", ".postgres.users"))  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"cannot use {home} for the embedded database: {error}; set CAPSFUSION_HOME to another folder"
        ) from error
    data = home / "postgres"
    with gate, users:
        with _locked(gate):  # only one process at a time may start or stop the server
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                server_process.start(data)
                server = server_of(home)
                _create_databases(server, databases)
            except BaseException:
                _leave(data, users)
                raise
        try:
            yield server
        finally:
            with _locked(gate):
                _leave(data, users)


@contextmanager
def _locked(file: Any) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _leave(data: Path, users: Any) -> None:
    """Release the lock on the file ``users``. If no other process has a lock on this file, stop the server.

    The caller must hold the lock on ``.postgres.gate``.
    """
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if server_process.is_running(data):
        server_process.stop(data)
        link = link_to(data)
        if link.is_symlink() and link.readlink() == data:
            link.unlink()


def _create_databases(server: EmbeddedPostgres, databases: Sequence[str]) -> None:
    deadline = time.monotonic() + server_process.START_TIMEOUT
    url = server.url("postgres", "psycopg").set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            connection = psycopg.connect(url, autocommit=True, client_encoding="UTF8")
            break
        except psycopg.OperationalError as error:
            # Wait while the server recovers its data: another process may just have started the server.
            failure = failed_handshake(url)
            if failure.sqlstate == CANNOT_CONNECT_NOW and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            message = f"the embedded database in {server.data} does not answer: {one_line(error)}"
            variables = libpq_variables.to_check(server.url("postgres"), failure)
            if variables and lasts(failure):
                raise InputError(f"{message}; correct or unset {' and '.join(variables)}") from error
            raise NotReadyError(message) from error
    with connection:
        present = {name for (name,) in connection.execute("select datname from pg_database")}
        for name in databases:
            if name not in present:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
