"""Roles of the database: who owns the schema, who writes rows, who only reads. Logins get one of them.

They are group roles without a login, the same in all databases of a server. Where whoever migrates may not make them,
everything stays that login's own, as it is with a single login for all.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from capsfusion_tasks.warehouse.tables import SCHEMA, VERSION_TABLE

OWNER, LOADER, READER = ROLES = ("capsfusion_owner", "capsfusion_loader", "capsfusion_reader")

log = logging.getLogger(__name__)

# What the schema has that is not OWNER's: made just now by whoever migrates.
_NOT_OWNED = f"""
select format('alter %s %I.%I owner to {OWNER}', kind, nspname, relname)
from pg_namespace join pg_class on relnamespace = pg_namespace.oid
join (values ('r', 'table'), ('p', 'table'), ('v', 'view'), ('m', 'materialized view')) kinds (relkind, kind)
    on kinds.relkind = pg_class.relkind::text
where nspname = '{SCHEMA}' and relowner <> (select oid from pg_roles where rolname = '{OWNER}')
union all
select format('alter schema %I owner to {OWNER}', nspname) from pg_namespace
where nspname = '{SCHEMA}' and nspowner <> (select oid from pg_roles where rolname = '{OWNER}')
"""  # noqa: S608
_GRANTS = (
    f"grant usage on schema {SCHEMA} to {LOADER}, {READER}",
    # A read is `select … for update`, too, for which the right to update is needed. Nobody but the owner truncates.
    f"grant select, insert, update, delete on all tables in schema {SCHEMA} to {LOADER}",
    f"revoke insert, update, delete on {SCHEMA}.{VERSION_TABLE} from {LOADER}",
    f"grant select on all tables in schema {SCHEMA} to {READER}",
    # For tables that the owner makes by hand.
    f"alter default privileges for role {OWNER} in schema {SCHEMA}"
    f" grant select, insert, update, delete on tables to {LOADER}",
    f"alter default privileges for role {OWNER} in schema {SCHEMA} grant select on tables to {READER}",
)


def grant_roles(connection: Connection) -> None:
    """Make the roles that are missing, give the schema to OWNER, and the rights on it to LOADER and READER.

    Called again it changes nothing. What the login may not do is left out, with a warning that says what an
    administrator can do about it.
    """
    for role in ROLES:
        if not _exists(connection, role):
            _try(connection, f"create role {role} nologin")
    if missing := [role for role in ROLES if not _exists(connection, role)]:
        log.warning(
            "no database roles %s, and this login may not make them, so all tables are its own; to have them, an"
            " administrator runs: %s; grant %s to <this login>;  then `capsfusion db upgrade` again",
            ", ".join(missing),
            "; ".join(f"create role {role}" for role in missing),
            OWNER,
        )
        return
    if not connection.scalar(text(f"select pg_has_role('{OWNER}', 'usage')")):
        _try(connection, f"grant {OWNER} to current_user")  # whoever made it may, and is no member before that
    not_owned = list(connection.scalars(text(_NOT_OWNED)))
    if not _try(connection, *sorted(not_owned), *_GRANTS):
        log.warning(
            "the rights of %s and %s are not set: this login is no member of %s, or does not own the tables; an"
            " administrator runs: grant %s to <this login>;  then `capsfusion db upgrade` again",
            LOADER,
            READER,
            OWNER,
            OWNER,
        )
        return
    database = connection.scalar(text("select quote_ident(current_database())"))
    # Only where public lacks them, which has both by default: temporary tables are how rows are loaded and looked up.
    for privilege, roles in (("connect", ROLES), ("temporary", (OWNER, LOADER))):
        lacking = [role for role in roles if not _has(connection, role, privilege)]
        if lacking and not _try(connection, f"grant {privilege} on database {database} to {', '.join(lacking)}"):
            log.warning(
                "%s lack a right, and this login may not give it; the owner of the database runs: "
                "grant %s on database %s to %s",
                *(", ".join(lacking), privilege, database, ", ".join(lacking)),
            )


def _exists(connection: Connection, role: str) -> bool:
    return bool(connection.scalar(text("select exists (select from pg_roles where rolname = :role)"), {"role": role}))


def _has(connection: Connection, role: str, privilege: str) -> bool:
    asked = {"role": role, "privilege": privilege}
    return bool(connection.scalar(text("select has_database_privilege(:role, current_database(), :privilege)"), asked))


def _try(connection: Connection, *statements: str) -> bool:
    """Whether all of it could be done; else nothing of it is."""
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.execute(text(statement))
    except DBAPIError as error:  # no right to; or another database's migration made the role at this moment
        log.debug("%s", error)
        return False
    return True
