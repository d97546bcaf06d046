"""Opens the warehouse: the embedded PostgreSQL, or the one that ``CAPSFUSION_WAREHOUSE_URL`` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.embedded import embedded_postgres
from capsfusion_tasks.warehouse.migrate import current_revision, head_revision, known_revisions, upgrade
from capsfusion_tasks.warehouse.sqlstates import from_psycopg, one_line, unreachable
from capsfusion_tasks.warehouse.url import describe, libpq_uri, parse_url

# Every connection runs this statement, because the server, the database or the login may have another time zone.
# psycopg would return times in that zone, and SQL would convert times to days in that zone. An option of the URL could
# set the time zone, too, but pgbouncer refuses options. pgbouncer keeps the time zone that a client has set with this
# statement, even if it pools transactions.
IN_UTC = "set timezone = 'UTC'"


@dataclass(frozen=True)
class Warehouse:
    """An open warehouse. ``str(url)`` hides the password."""

    engine: Engine
    url: URL

    @property
    def adbc_uri(self) -> str:
        """The URI for ``adbc_driver_postgresql.dbapi.connect``. Contains the password."""
        return libpq_uri(self.url)


@contextmanager
def open_warehouse(settings: Settings, *, migrate: bool | None = None) -> Iterator[Warehouse]:
    """The warehouse of ``settings``, with a current schema. An embedded server runs at least until the block ends.

    ``migrate``: bring the schema up to date (True), or only check it (False). By default, the embedded warehouse is
    brought up to date, and any other warehouse is only checked. Raises InputError for a URL, an encoding or a schema
    that cannot be used, and NotReadyError if the server does not answer, or stops answering in the block.
    """
    if settings.warehouse_url is None:
        with embedded_postgres(settings.home) as server, _open(server.url(), migrate is not False) as warehouse:
            yield warehouse
    else:
        with _open(parse_url(settings.warehouse_url.get_secret_value()), migrate is True) as warehouse:
            yield warehouse


@contextmanager
def _open(url: URL, migrate: bool) -> Iterator[Warehouse]:
    # Get text, not bytes, even if PGCLIENTENCODING is set or the database has no encoding.
    url = url.update_query_dict({"client_encoding": "UTF8"})
    # hide_parameters: errors show statements without their values, because captions and names are untrusted.
    # use_native_hstore: by default, SQLAlchemy would query the server for the type hstore each time a task starts. The
    # warehouse does not have this type.
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True, use_native_hstore=False)
    event.listen(engine, "connect", _use_utc)
    try:
        _prepare_schema(engine, migrate)
        yield Warehouse(engine, url)
    except (DBAPIError, psycopg.Error) as error:
        if (told := from_psycopg(url, error)) is None:
            raise
        raise told from error
    finally:
        engine.dispose()


def _use_utc(connection: psycopg.Connection[Any], _: object) -> None:
    """Set the time zone of a new connection, outside of transactions, because a rollback would undo it."""
    connection.autocommit = True
    connection.execute(IN_UTC)
    connection.autocommit = False


def _prepare_schema(engine: Engine, migrate: bool) -> None:
    try:
        connection = engine.connect()
    except OperationalError as error:
        raise unreachable(engine.url, one_line(error.orig)) from error
    with connection:
        _require_utf8(connection)
        revision = current_revision(connection)
    if revision == head_revision():
        return
    try:
        _change_schema(engine, revision, migrate)
    except ProgrammingError as error:  # for example if the login may not create tables
        raise InputError(
            f"the warehouse, {describe(engine.url)}, refuses the request: {one_line(error.orig)}"
        ) from error


def _require_utf8(connection: Connection) -> None:
    encoding = connection.scalar(text("select getdatabaseencoding()"))
    if encoding != "UTF8":
        raise InputError(
            f"the warehouse, {describe(connection.engine.url)}, has the encoding {encoding}, which cannot store every"
            " caption; create another database with: create database NAME encoding 'UTF8' template template0"
        )


def _change_schema(engine: Engine, revision: str | None, migrate: bool) -> None:
    if revision is not None and revision not in known_revisions():
        raise InputError(
            f"the warehouse {describe(engine.url)} has the schema of a newer release ({revision}; the newest that this"
            f" release supports is {head_revision()}); upgrade this installation of capsfusion-pipeline"
        )
    if not migrate:
        found = "no tables yet" if revision is None else f"an old schema ({revision}, expected {head_revision()})"
        raise InputError(f"the warehouse {describe(engine.url)} has {found}; run `capsfusion db upgrade`")
    upgrade(engine)
