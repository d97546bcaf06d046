"""Tests opening a warehouse: which server is used, which schema it must have, and which errors are raised."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.engine import make_url

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.browse import caption_page
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.facets import facets
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.migrate import current_revision, head_revision
from capsfusion_tasks.warehouse.sql import execute_sql
from capsfusion_tasks.warehouse.url import libpq_uri, parse_url
from tests.conftest import new_warehouse, plain_url
from tests.warehouse.conftest import DAY, plan, rows


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg2"])
def test_the_driver_is_named(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:secret@db.example.org/captions?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.host, url.database, url.query["sslmode"]) == ("db.example.org", "captions", "require")


def test_a_server_that_silently_goes_is_given_up_in_minutes_unless_the_url_says_otherwise() -> None:
    url = parse_url("postgresql://me@db.example.org/captions?keepalives_idle=7")
    idle, probe, probes = (int(str(url.query[f"keepalives_{name}"])) for name in ("idle", "interval", "count"))
    assert (idle, probe * probes) == (7, 60)


@pytest.mark.parametrize(
    "url",
    ["mysql://me:secret@db/captions", "sqlite:///captions.db", "me:secret@db", "postgresql://me:secret@db:port/x"],
)
def test_other_urls_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(InputError, match="expected postgresql://") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pass@tail@db/captions",
        "postgresql://me:pass@tail:5432@db/captions",
        "postgresql://me:pass@tail/more@db/captions",
        "postgresql://me:pass@tail?more=1@db/captions",
        "postgresql://me@tenant:pass@tail@db/captions",
        "postgresql://me:pass@tail@/captions?host=/tmp",
        "me:pass@tail@db/captions",
    ],
)
def test_a_password_with_an_unescaped_at_sign_is_refused_without_its_tail(url: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_url(url)
    assert "tail" not in str(caught.value)


def test_an_at_sign_in_a_user_name_and_in_a_parameter_is_allowed() -> None:
    assert parse_url("postgresql://me@tenant:secret@db/captions").username == "me@tenant"
    assert parse_url("postgresql:///captions?user=me@tenant").query["user"] == "me@tenant"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_store_every_caption_is_refused(postgres: EmbeddedPostgres, encoding: str) -> None:
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(
            text(f"create database odd encoding '{encoding}' template template0 locale 'C' locale_provider libc")
        )
        try:
            url = postgres.url("odd").render_as_string(hide_password=False)
            refused = pytest.raises(
                InputError, match=f"has the encoding {encoding}.*encoding 'UTF8' template template0"
            )
            with refused, open_warehouse(Settings(warehouse_url=url), migrate=True):
                pass
        finally:
            connection.execute(text("drop database odd with (force)"))
    admin.dispose()


def test_the_environment_of_libpq_does_not_change_what_text_is(
    warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With this encoding, psycopg would return bytes instead of text.
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    with (
        open_warehouse(Settings(warehouse_url=warehouse_url)) as warehouse,
        warehouse.engine.connect() as connection,
    ):
        assert connection.scalar(text("select 'é 猫'")) == "é 猫"


def test_times_are_in_utc_whatever_the_time_zone_of_the_database(postgres: EmbeddedPostgres) -> None:
    with new_warehouse(postgres) as url:
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            name = make_url(url).database
            connection.execute(text(f"alter database {name} set timezone = 'America/New_York'"))
        admin.dispose()
        with open_warehouse(Settings(warehouse_url=url)) as warehouse:
            plan(warehouse, ("u1", 2))  # of an interval that starts at midnight (UTC), the day before in New York
            load_unit(warehouse, "u1", rows(0, 1))
            with warehouse.engine.connect() as first, warehouse.engine.connect() as second:
                begins = work_units.c.interval_start
                first.rollback()
                for connection in (first, second):
                    start, day = connection.execute(select(begins, func.date(begins))).one()
                    assert (start.utcoffset(), day) == (timedelta(), DAY.start.date())
                page = caption_page(first, CaptionFilter())
                assert {row.loaded_at.utcoffset() for row in page.rows} == {timedelta()}
                days = facets(first, CaptionFilter(words="capsfusion"), "novelty").days
            told = execute_sql(warehouse, "select interval_start::date::text as day from work_units").to_pylist()
    assert [each.value for each in days] == ["2026-11-10"]
    assert told == [{"day": "2026-11-10"}]


def test_the_environment_of_libpq_does_not_reach_the_embedded_server(
    postgres: EmbeddedPostgres, warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGHOSTADDR": "192.0.2.1",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "system",
        "PGGSSENCMODE": "require",
        "PGCHANNELBINDING": "require",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCONNECT_TIMEOUT": "soon",
        "PGPORT": "1",
        "PGUSER": "nobody",
    }.items():
        monkeypatch.setenv(name, value)
    url = postgres.url(make_url(warehouse_url).database or "")
    with psycopg.connect(libpq_uri(url)) as connection:
        assert connection.execute("select current_user").fetchone() == ("postgres",)
    engine = create_engine(url)
    with engine.connect() as connected:
        assert connected.scalar(text("select current_user")) == "postgres"
    engine.dispose()
    assert execute_sql(Warehouse(engine, url), "select current_user::text").column(0).to_pylist() == ["postgres"]


def test_a_server_that_does_not_answer() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    settings = Settings(warehouse_url=f"postgresql://me:secret@127.0.0.1:{port}/captions")
    with pytest.raises(NotReadyError) as caught, open_warehouse(settings):
        pass
    message = str(caught.value)
    assert f'database "captions" at 127.0.0.1:{port}, does not answer' in message
    assert "CAPSFUSION_WAREHOUSE_URL" in message
    assert "secret" not in message
    assert "\n" not in message


def test_a_database_that_does_not_exist_is_an_input_error(postgres: EmbeddedPostgres) -> None:
    url = postgres.url("absent").render_as_string(hide_password=False)
    with (
        pytest.raises(InputError, match='database "absent" does not exist'),
        open_warehouse(Settings(warehouse_url=url)),
    ):
        pass


def test_a_given_database_is_migrated_only_on_request(postgres: EmbeddedPostgres) -> None:
    settings = Settings(warehouse_url=postgres.url("empty").render_as_string(hide_password=False))
    with pytest.raises(InputError, match=r"has no tables yet; run `capsfusion db upgrade`"), open_warehouse(settings):
        pass
    with open_warehouse(settings, migrate=True) as warehouse, warehouse.engine.begin() as connection:
        assert current_revision(connection) == head_revision()
        connection.execute(text("update capsfusion.schema_version set version_num = '9999'"))
    try:
        with (
            pytest.raises(InputError, match=r"schema of a newer release \(9999"),
            open_warehouse(settings, migrate=True),
        ):
            pass
    finally:
        engine = create_engine(postgres.url("empty"))
        with engine.begin() as connection:
            connection.execute(text("drop schema capsfusion cascade"))
        engine.dispose()


def test_the_embedded_one_is_migrated_at_once_by_several_at_a_time(tmp_path: Path) -> None:
    found: list[int] = []

    def use() -> None:
        with open_warehouse(Settings(home=tmp_path)) as warehouse, psycopg.connect(warehouse.adbc_uri) as connection:
            row = connection.execute("select count(*) from capsfusion.fused_captions").fetchone()
            found.append(row[0] if row else -1)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0, 0, 0]


def test_a_password_with_odd_characters_reaches_both_drivers(postgres: EmbeddedPostgres) -> None:
    settings = Settings(warehouse_url="postgresql://me:p%40s%3A%2F%25@db:5/x")
    url = parse_url(plain_url(settings))
    assert url.password == "p@s:/%"  # noqa: S105
    assert make_url(url.render_as_string(hide_password=False)).password == url.password
    assert "p%40s" not in str(url)
    assert "secret" not in str(parse_url("postgresql://me@db/x?password=secret"))
