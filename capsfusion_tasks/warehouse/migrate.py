"""Brings the warehouse's schema to the version that this code needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, inspect, select, text

from capsfusion_tasks.warehouse.locks import lock_key
from capsfusion_tasks.warehouse.roles import grant_roles
from capsfusion_tasks.warehouse.schema import SCHEMA, VERSION_TABLE


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Create or migrate the schema and its roles, in one transaction.

    If several processes migrate at the same time, one does the work and the others wait.
    """
    with engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(lock_key("migrate"))))
        # Not `create schema if not exists`, because that needs the right to create a schema even if the schema exists.
        if not inspect(connection).has_schema(SCHEMA):
            connection.execute(text(f"create schema {SCHEMA}"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        grant_roles(connection)


def current_revision(connection: Connection) -> str | None:
    """The Alembic revision of the database's schema. None if there is no schema."""
    if not inspect(connection).has_table(VERSION_TABLE, schema=SCHEMA):
        return None
    revision = connection.scalar(text(f"select version_num from {SCHEMA}.{VERSION_TABLE}"))  # noqa: S608
    return None if revision is None else str(revision)


@cache
def head_revision() -> str:
    """The Alembic revision of the schema that this code needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


@cache
def known_revisions() -> frozenset[str]:
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    return config
