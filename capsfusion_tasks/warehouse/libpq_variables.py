"""The environment variables of libpq (PGOPTIONS, PGSSLMODE, PGSERVICE, …). They set options that a URL leaves out."""

from __future__ import annotations

import os

from psycopg import pq
from sqlalchemy import URL

from capsfusion_tasks.warehouse.handshake import FailedHandshake

# Variables that set options of a session → the URL parameter that overrides the variable (empty: none). If an option
# has a wrong value or an unknown name, the server reports an SQLSTATE of _REFUSED_CLASSES.
_OF_SESSIONS = {"PGOPTIONS": "options", "PGTZ": "", "PGDATESTYLE": "", "PGGEQO": ""}
_REFUSED_CLASSES = ("22", "42")
# Variables that name files of libpq. No parameter of a URL overrides them.
_OF_FILES = {"PGSERVICEFILE": "", "PGSYSCONFDIR": ""}


def to_check(url: URL, failure: FailedHandshake) -> list[str]:
    """The variables that may have caused ``failure``: they are set, and ``url`` does not override them."""
    if failure.sqlstate is not None and failure.sqlstate.startswith(_REFUSED_CLASSES):
        names = _OF_SESSIONS
    else:
        parameters = {
            option.envvar.decode(): option.keyword.decode() for option in pq.Conninfo.parse(b"") if option.envvar
        }
        names = {name: parameter for name, parameter in parameters.items() if name not in _OF_SESSIONS} | _OF_FILES
    parts = {"user": url.username, "password": url.password, "host": url.host, "port": url.port, "dbname": url.database}
    given = {*url.query, *(name for name, value in parts.items() if value is not None)}
    return sorted(name for name, parameter in names.items() if os.environ.get(name) and parameter not in given)
