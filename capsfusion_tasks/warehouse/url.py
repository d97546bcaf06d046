"""The warehouse's URL: parses ``CAPSFUSION_WAREHOUSE_URL``, and formats it for libpq and for messages."""

from __future__ import annotations

import re

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from capsfusion_tasks.errors import InputError

_EXPECTED = "expected postgresql://user:password@host:5432/database"
# Defaults for options that the URL lacks: how long to wait for a connection, and when to give up on a server that has
# disappeared. Without these options, the operating system would wait for hours.
_PARAMETERS = {
    "connect_timeout": "10",  # seconds
    "keepalives_idle": "60",  # seconds
    "keepalives_interval": "10",  # seconds
    "keepalives_count": "6",
    "tcp_user_timeout": "120000",  # milliseconds
}
# Parameters that contain a secret. SQLAlchemy hides only the password, so messages would show these parameters.
_SECRETS = ("sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
# Matches user:password@ like SQLAlchemy: the first @ after the colon ends the password.
_LOGIN = re.compile(r"[^:]+://(?:[^:/]*(:[^@]*)?@)?(.*)", re.DOTALL)


def parse_url(url: str) -> URL:
    """Parse ``CAPSFUSION_WAREHOUSE_URL``, and set the driver psycopg: SQLAlchemy's default depends on its version.

    Raises InputError if ``url`` is not a URL of PostgreSQL. The error never repeats ``url``, which may have a password.
    """
    _require_escaped_login(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"CAPSFUSION_WAREHOUSE_URL is not a URL; {_EXPECTED}") from None
    if parsed.drivername.split("+")[0] not in ("postgresql", "postgres"):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL names {parsed.drivername}, but the warehouse must be PostgreSQL: {_EXPECTED}"
        )
    if found := sorted(parsed.query.keys() & set(_SECRETS)):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL contains {' and '.join(found)}: move it to a libpq service file that only you"
            " can read, name that file in PGSERVICEFILE, and put service=NAME into the URL"
        )
    password = parsed.query.get("password")
    if isinstance(password, str):  # move it in front of the host, because messages hide a password only there
        parsed = parsed.difference_update_query(["password"]).set(password=password)
    return parsed.set(drivername="postgresql+psycopg", query={**_PARAMETERS, **parsed.query})


def _require_escaped_login(url: str) -> None:
    """Refuse an unescaped @ in a password. What follows it would count as the host, and would appear in messages."""
    found = _LOGIN.fullmatch(url)
    if found is None:
        return
    password, rest = found.groups()
    if "@" in (rest.partition("?")[0] if password is None else rest):
        raise InputError(
            f"CAPSFUSION_WAREHOUSE_URL has more than one @; {_EXPECTED}; write each @ of the user name or the password"
            " as %40"
        )


def libpq_uri(url: URL) -> str:
    """``url`` for libpq, with the password. Writes a space as %20, not as +, because libpq takes a plus literally."""
    address, mark, parameters = url.set(drivername="postgresql").render_as_string(hide_password=False).partition("?")
    return address + mark + parameters.replace("+", "%20")


def describe(url: URL) -> str:
    """``database "capsfusion" at db.example.org:5432``: the warehouse's name in messages, without the password."""
    host = url.host or url.query.get("host") or "the default socket"
    port = url.port or url.query.get("port") or 5432
    return f'database "{url.database or url.username or ""}" at {host}:{port}'
