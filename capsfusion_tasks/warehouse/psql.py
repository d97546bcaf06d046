"""The command that opens the warehouse (the PostgreSQL database with the captions) in psql."""

from __future__ import annotations

import os
import shutil

from sqlalchemy import URL

from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.embedded import is_embedded
from capsfusion_tasks.warehouse.schema import SCHEMA
from capsfusion_tasks.warehouse.server_process import BINARIES
from capsfusion_tasks.warehouse.url import libpq_uri


def psql_command(warehouse: Warehouse) -> tuple[list[str], dict[str, str]]:
    """The psql command and its environment. Prefers the psql on PATH, except for the embedded server.

    The password is in the environment, because every user can read the arguments of a process.
    """
    url = warehouse.url
    environment = dict(os.environ)
    options = [environment.get("PGOPTIONS", ""), f"-c search_path={SCHEMA},public"]
    environment["PGOPTIONS"] = " ".join(option for option in options if option)
    if url.password is not None:
        environment["PGPASSWORD"] = str(url.password)
    own = str(BINARIES / "psql")
    # For the embedded server, use the psql that is installed with it: an older psql does not know all parameters of the
    # server's URL.
    program = own if is_embedded(url) else shutil.which("psql") or own
    shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
    return [program, libpq_uri(shown)], environment
