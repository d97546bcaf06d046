"""The warehouse's URL: read from ``CAPSFUSION_WAREHOUSE_URL``, given to libpq, and shown in messages."""

from __future__ import annotations

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from capsfusion_tasks.errors import InputError

_EXPECTED = "expected postgresql://user:password@host:5432/database"
# Defaults for options that the URL lacks: how long to wait for a connection, and when to give up a server that has
# disappeared. The operating system would wait for hours.
_PARAMETERS = {
    "connect_timeout": "10",  # seconds
    "keepalives_idle": "60",  # seconds
    "keepalives_interval": "10",  # seconds
    "keepalives_count": "6",
    "tcp_user_timeout": "120000",  # milliseconds
}
# Parameters that hold a secret. SQLAlchemy hides the password only, so messages would show these.
_SECRETS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# Matches user:password@ like SQLAlchemy: the first @ after the colon ends the password.
_LOGIN = re.compile(r"[^:]+://(?:[^:/]*(:[^@]*)?@)?(.*)", re.DOTALL)


def parse_url(url: str) -> URL:
    """``CAPSFUSION_WAREHOUSE_URL`` with psycopg as its driver: SQLAlchemy's default driver depends on its release.

    Raises InputError for what is not a URL of PostgreSQL. The message never repeats the URL: it may hold a password.
    """
    _require_escaped_login(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"CAPSFUSION_WAREHOUSE_URL is not a URL; {_EXPECTED}") from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL names {parsed.drivername}; the warehouse is PostgreSQL only: {_EXPECTED}"
        )
    if found := sorted(parsed.query.keys() & set(_SECRETS)):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL contains {' and '.join(found)}: move it to a libpq service file that only you"
            " can read, name that file in PGSERVICEFILE, and put service=NAME into the URL"
        )
    password = parsed.query.get("password")
    if isinstance(password, str):  # messages hide only the password of the login part
        parsed = parsed.difference_update_query(["password"]).set(password=password)
    return parsed.set(drivername="postgresql+psycopg", query={**_PARAMETERS, **parsed.query})


def _require_escaped_login(url: str) -> None:
    """Refuse an unescaped @ in a password: the end of the password would be in the host, which messages show."""
    found = _LOGIN.fullmatch(url)
    if found is None:
        return
    password, rest = found.groups()
    if "@" in (rest.partition("?")[0] if password is None else rest):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL has an @ after the one in front of the host; {_EXPECTED}, with an @ of the user"
            " name or the password written as %40"
        )


def libpq_uri(url: URL) -> str:
    """``url`` with its password, as libpq reads it: libpq does not decode a plus sign to a space."""
    address, mark, parameters = url.set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    return address + mark + parameters.replace("+", "%20")


def describe(url: URL) -> str:
    """``database "capsfusion" at db.example.org:5432``: the warehouse's name in messages, without the password."""
    host = url.host or url.query.get("host") or "the default socket"
    port = url.port or url.query.get("port") or 5432
    return f'database "{url.database or url.username or ""}" at {host}:{port}'
