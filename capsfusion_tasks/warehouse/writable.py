"""Checks that this database login can load captions, before a GPU spends hours on fusing them."""

from __future__ import annotations

from sqlalchemy import Connection, text

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.schema import SCHEMA
from capsfusion_tasks.warehouse.sqlstates import READ_ONLY, user_error
from capsfusion_tasks.warehouse.url import describe

# The rights that planning, fusing and loading need on each table. The role capsfusion_loader has them.
_NEEDED = {
    **dict.fromkeys(("shards", "work_units", "fusions", "plans"), ("select", "insert", "update")),
    "gate_holds": ("select", "insert", "update", "delete"),
    **dict.fromkeys(("fused_captions", "rejected_captions", "replayed_captions"), ("select", "insert", "delete")),
}


def require_writable(connection: Connection) -> None:
    """Raise NotReadyError if the database is read-only or a standby, InputError if the login lacks rights to load."""
    url = connection.engine.url
    # transaction_read_only is also on in a standby.
    if connection.scalar(text("select current_setting('transaction_read_only')::boolean")):
        raise user_error(url, "", READ_ONLY)
    tables, privileges = zip(*((name, each) for name, needed in _NEEDED.items() for each in needed), strict=True)
    missing = text(
        "select privilege || ' on ' || name from unnest(cast(:tables as text[]), cast(:privileges as text[]))"
        " needed (name, privilege) where not has_table_privilege(:schema || '.' || name, privilege)"
    )
    lacking = [*connection.scalars(missing, {"tables": list(tables), "privileges": list(privileges), "schema": SCHEMA})]
    if not connection.scalar(text("select has_database_privilege(current_database(), 'temporary')")):
        lacking.append("temporary on the database")
    if lacking:
        raise InputError(
            f"the login of the warehouse, {describe(url)}, cannot load captions: it lacks {', '.join(lacking)};"
            " ask an administrator to run: grant capsfusion_loader to <this login>"
        )
