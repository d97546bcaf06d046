"""Tests what logins with each database role may do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import browse, ledger
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.export import export_session
from capsfusion_tasks.warehouse.export_selection import Selection
from capsfusion_tasks.warehouse.known_pairs import known_pairs
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.migrate import upgrade
from capsfusion_tasks.warehouse.reading import reading
from capsfusion_tasks.warehouse.roles import LOADER, OWNER, READER, grant_roles
from capsfusion_tasks.warehouse.sql import execute_sql
from capsfusion_tasks.warehouse.url import parse_url
from tests.conftest import login
from tests.warehouse.conftest import plan, rows

# Each statement is tried alone. ``may`` rolls it back, so the warehouse never changes.
WRITES = ("delete from capsfusion.shards where false", "update capsfusion.work_units set error = null where false")
SCHEMA_CHANGES = (
    "create table capsfusion.mine (n int)",
    "drop table capsfusion.shards",
    "truncate capsfusion.rejected_captions",
    "alter table capsfusion.fusions add column mine int",
    "update capsfusion.schema_version set version_num = '0000' where false",
    f"grant {OWNER} to current_user",
)


def may(warehouse: Warehouse, statement: str) -> bool:
    """Whether the warehouse's login may run the statement. Rolls it back."""
    with psycopg.connect(warehouse.adbc_uri) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            return False
        finally:
            connection.rollback()
    return True


@pytest.fixture
def loader(postgres: EmbeddedPostgres, warehouse_url: str) -> Iterator[Warehouse]:
    with open_warehouse(Settings(warehouse_url=login(postgres, warehouse_url, LOADER))) as warehouse:
        yield warehouse


@pytest.fixture
def reader(postgres: EmbeddedPostgres, warehouse_url: str) -> Iterator[Warehouse]:
    with open_warehouse(Settings(warehouse_url=login(postgres, warehouse_url, READER))) as warehouse:
        yield warehouse


def test_a_loader_writes_rows_and_changes_no_table(loader: Warehouse) -> None:
    plan(loader, ("u1", 2))
    with ledger.planning_lock(loader.engine, "f1") as session:
        assert known_pairs(session.transaction, "f1", rows(1)["pair_id"]).to_pylist() == [False]
    load_unit(loader, "u1", rows(1, 2, rejected={2: ["loop"]}))
    assert execute_sql(loader, "select count(*) as n from captions")["n"].to_pylist() == [1]
    assert all(may(loader, statement) for statement in WRITES)
    assert not [statement for statement in SCHEMA_CHANGES if may(loader, statement)]


def test_a_reader_sees_everything_and_changes_nothing(loader: Warehouse, reader: Warehouse) -> None:
    plan(loader, ("u1", 1))
    load_unit(loader, "u1", rows(1))
    assert execute_sql(reader, "select capsfusion from captions").num_rows == 1
    with reading(reader, seconds=10) as connection:
        assert len(browse.caption_page(connection, CaptionFilter(), limit=10).rows) == 1
    with export_session(reader, "somewhere") as session:
        assert session.freeze(Selection()).accepted == 1
    assert not [statement for statement in (*WRITES, *SCHEMA_CHANGES) if may(reader, statement)]
    with pytest.raises(InputError, match="permission denied for table work_units"):
        load_unit(reader, "u1", rows(1))


def test_an_owner_migrates_and_what_it_makes_is_open_to_the_others(postgres: EmbeddedPostgres) -> None:
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("create database owned"))
        connection.execute(text(f"grant create on database owned to {OWNER}"))
        connection.execute(text("revoke connect, temporary on database owned from public"))
        connection.execute(text(f"grant connect on database owned to {OWNER}"))
    url = login(postgres, postgres.url("owned").render_as_string(hide_password=False), OWNER)
    try:
        owner = create_engine(parse_url(url))
        upgrade(owner, "0001")
        upgrade(owner)
        with owner.begin() as connection:
            owners = set(connection.scalars(text("select tableowner from pg_tables where schemaname = 'capsfusion'")))
            connection.execute(text(f"set role {OWNER}"))
            connection.execute(text("create table capsfusion.by_hand (n int)"))
        owner.dispose()
        assert owners == {OWNER}
        with admin.connect() as connection:  # PUBLIC has no right to connect (docs/operations.md)
            connection.execute(text(f"grant connect on database owned to {READER}"))
        with open_warehouse(Settings(warehouse_url=login(postgres, url, READER))) as reader:
            assert may(reader, "select from capsfusion.by_hand")
            assert may(reader, "select from capsfusion.captions")
    finally:
        with admin.connect() as connection:
            connection.execute(text("drop database owned with (force)"))
        admin.dispose()


def test_a_login_that_may_make_no_roles_migrates_and_is_told_what_is_missing(
    postgres: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("create role single login"))
        connection.execute(text("create database single owner single"))
    url = make_url(postgres.url("single")).set(username="single").render_as_string(hide_password=False)
    try:
        with (
            caplog.at_level(logging.WARNING),
            open_warehouse(Settings(warehouse_url=url), migrate=True) as warehouse,
        ):
            plan(warehouse, ("u1", 1))
            load_unit(warehouse, "u1", rows(1))
            assert f"grant {OWNER} to <this login>" in caplog.text
            # Do what the warning advises: grant the role.
            with admin.connect() as connection:
                connection.execute(text(f"grant {OWNER} to single"))
            with warehouse.engine.begin() as connection:
                grant_roles(connection)
        with open_warehouse(Settings(warehouse_url=login(postgres, url, READER))) as reader:
            assert execute_sql(reader, "select * from fused_captions").num_rows == 1
    finally:
        with admin.connect() as connection:
            connection.execute(text("drop database single with (force)"))
            connection.execute(text("drop role single"))
        admin.dispose()
