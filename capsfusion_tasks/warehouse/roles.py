"""The database roles of the warehouse: owner, loader and reader. roles.sql defines their rights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import psycopg
from sqlalchemy import Connection

OWNER, LOADER, READER = "capsfusion_owner", "capsfusion_loader", "capsfusion_reader"

_SCRIPT = Path(__file__).with_name("roles.sql")

log = logging.getLogger(__name__)


def grant_roles(connection: Connection) -> None:
    """Create the missing roles and grant them their rights, in the transaction of ``connection``.

    Skips statements that this login may not run. A warning in the log says what an administrator can run.
    """
    driver = cast(psycopg.Connection[Any], connection.connection.driver_connection)
    driver.add_notice_handler(_log_warning)
    try:
        driver.execute(_SCRIPT.read_bytes())
    finally:
        driver.remove_notice_handler(_log_warning)


def _log_warning(notice: psycopg.errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        log.warning("%s", notice.message_primary)
