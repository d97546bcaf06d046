"""Opens the warehouse: the embedded PostgreSQL, or the one that ``CAPSFUSION_WAREHOUSE_URL`` names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import adbc_driver_postgresql.dbapi as adbc
import psycopg
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.embedded import embedded_postgres
from capsfusion_tasks.warehouse.migrate import current_revision, head_revision, known_revisions, upgrade

# Where the URL does not say: seconds to connect, and how soon a server that has silently gone is given up (the system's
# own defaults are hours).
_PARAMETERS = {
    "connect_timeout": "10",
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
    "tcp_user_timeout": "120000",  # milliseconds
}
# Secrets that a URL may hold besides the password, and that would be shown where only that one is hidden.
_SECRETS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# What a server, or libpq about its certificate, says when trying again will not help.
_REFUSALS = (
    "password authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "no password supplied",
    "certificate verify failed",
    "server certificate for",  # … "other" does not match host name "localhost"
    "does not support SSL",
)
# What libpq says when the connection is lost.
_LOST = ("connect", "eof detected", "broken pipe", "could not receive", "could not send", "timeout expired")


@dataclass(frozen=True)
class Warehouse:
    """An open warehouse. ``str(url)`` hides the password."""

    engine: Engine
    url: URL

    @property
    def adbc_uri(self) -> str:
        """For ``adbc_driver_postgresql.dbapi.connect``; holds the password."""
        return libpq_uri(self.url)


@contextmanager
def open_warehouse(settings: Settings, *, migrate: bool | None = None) -> Iterator[Warehouse]:
    """The warehouse of ``settings``, its schema up to date; the embedded server runs as long as the block.

    ``migrate``: bring the schema up to date (True), or check that it is (False). By default the embedded one is brought
    up to date and any other checked. Raises InputError for a URL or a schema that cannot be used, and NotReadyError
    where no server answers, or where it is lost or gives up in the block.
    """
    if settings.warehouse_url is None:
        with embedded_postgres(settings.home) as server, _open(server.url(), migrate is not False) as warehouse:
            yield warehouse
    else:
        with _open(parse_url(settings.warehouse_url.get_secret_value()), migrate is True) as warehouse:
            yield warehouse


@contextmanager
def _open(url: URL, migrate: bool) -> Iterator[Warehouse]:
    # An error names its statement, and not what captions and names from outside stood in it.
    engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
    try:
        _prepare_schema(engine, migrate)
        yield Warehouse(engine, url)
    except (OperationalError, psycopg.OperationalError) as error:
        said = " ".join(str(getattr(error, "orig", error)).split())
        raise _gave_up(url, said) from error
    finally:
        engine.dispose()


def _prepare_schema(engine: Engine, migrate: bool) -> None:
    try:
        with engine.connect() as connection:
            revision = current_revision(connection)
        if revision != head_revision():
            _change_schema(engine, revision, migrate)
    except OperationalError as error:
        raise _unreachable(engine.url, error) from error
    except ProgrammingError as error:  # no right to read the tables, or to create them
        raise InputError(
            f"the warehouse, {describe(engine.url)}, refuses: {' '.join(str(error.orig).split())}"
        ) from error


def _change_schema(engine: Engine, revision: str | None, migrate: bool) -> None:
    if revision is not None and revision not in known_revisions():
        raise InputError(
            f"the warehouse {describe(engine.url)} has the schema of a newer release ({revision}; this one knows up to "
            f"{head_revision()}); upgrade capsfusion-pipeline here"
        )
    if not migrate:
        found = "no tables yet" if revision is None else f"an old schema ({revision}, expected {head_revision()})"
        raise InputError(f"the warehouse {describe(engine.url)} has {found}; run `capsfusion db upgrade`")
    upgrade(engine)


def parse_url(url: str) -> URL:
    """``CAPSFUSION_WAREHOUSE_URL`` with its driver named: SQLAlchemy's releases differ in what a bare URL means."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text is not repeated: it may hold a password.
        raise InputError(
            "CAPSFUSION_WAREHOUSE_URL is not a URL; expected postgresql://user:password@host:5432/database"
        ) from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL names {parsed.drivername}; the warehouse is PostgreSQL only: expected "
            "postgresql://user:password@host:5432/database"
        )
    if found := sorted(parsed.query.keys() & set(_SECRETS)):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL has {' and '.join(found)} in it: keep it in a service file of libpq's, readable"
            " by you alone, name that in PGSERVICEFILE, and put service=NAME into the URL instead"
        )
    password = parsed.query.get("password")
    if isinstance(password, str):  # where no message hides it
        parsed = parsed.difference_update_query(["password"]).set(password=password)
    return parsed.set(drivername="postgresql+psycopg", query={**_PARAMETERS, **parsed.query})


def libpq_uri(url: URL) -> str:
    """``url``, its password in it, as libpq reads it: a space in a parameter is no plus sign there."""
    address, mark, parameters = url.set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    return address + mark + parameters.replace("+", "%20")


def describe(url: URL) -> str:
    """``database "capsfusion" at db.example.org:5432``, for messages: no password."""
    host = url.host or url.query.get("host") or "the default socket"
    port = url.port or url.query.get("port") or 5432
    return f'database "{url.database or url.username or ""}" at {host}:{port}'


def _unreachable(url: URL, error: OperationalError) -> InputError | NotReadyError:
    said = " ".join(str(error.orig).split())
    message = f"the warehouse, {describe(url)}, does not answer: {said}"
    if any(refusal in said for refusal in _REFUSALS):
        return InputError(f"{message}; check CAPSFUSION_WAREHOUSE_URL")
    return NotReadyError(f"{message}; start it, check CAPSFUSION_WAREHOUSE_URL, or unset it for the embedded one")


def _gave_up(url: URL, said: str) -> NotReadyError:
    """For a server that was lost at work, or had to end it: no disk space, shut down, a lock that was not to be had."""
    said = said.rstrip(".")
    return NotReadyError(
        f"the warehouse, {describe(url)}, gave up: {said}; try again, nothing is done in part or twice"
    )


def from_adbc(url: URL, error: adbc.Error) -> InputError | NotReadyError:
    """What an error of the ADBC driver means to a user."""
    said, code = adbc_message(error), error.sqlstate or ""
    # Classes: connection, rollback, resources, operator intervention. Without a code it is the client that speaks.
    if code[:2] in ("08", "40", "53", "57") or (not code and any(sign in said.lower() for sign in _LOST)):
        return _gave_up(url, said)
    return InputError(f"the warehouse, {describe(url)}, refuses: {said}")


def adbc_message(error: adbc.Error) -> str:
    """PostgreSQL's message with its detail and its hint, in one line."""
    parts = adbc_details(error)
    said = [parts.get(f"MESSAGE_{part}") for part in ("PRIMARY", "DETAIL", "HINT")]
    words = str(error).partition("Query was:")[0].split()
    return ". ".join(part.rstrip(".") for part in said if part) or " ".join(words).rstrip(".")


def adbc_details(error: adbc.Error) -> dict[str, str]:
    """The fields of PostgreSQL's error: ``MESSAGE_PRIMARY``, ``STATEMENT_POSITION``, …; the driver gives bytes."""
    texts = ([bytes(part).decode(errors="replace") for part in pair] for pair in error.details or ())
    return {name.removeprefix("PG_DIAG_"): value for name, value in texts}
