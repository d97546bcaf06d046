"""Connects to a warehouse behind TLS. SQLAlchemy, ADBC and psql all check the server's certificate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.psql import psql_command
from capsfusion_tasks.warehouse.socket_folder import PORT
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.tls import Authority, make_authority, tls_relay


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls") / "a folder")  # the space must be escaped in URLs


@pytest.fixture
def tls_url(postgres: EmbeddedPostgres, warehouse_url: str, authority: Authority) -> Iterator[str]:
    """TCP URL of the warehouse behind a relay that accepts only TLS."""
    with tls_relay(authority, str(postgres.socket_folder / f".s.PGSQL.{PORT}"), postgres=True) as port:
        user, database = make_url(warehouse_url).username, make_url(warehouse_url).database
        yield f"postgresql://{user}@localhost:{port}/{database}"


def verified(url: str, ca: Path) -> str:
    return f"{url}?sslmode=verify-full&sslrootcert={str(ca).replace(' ', '%20')}"


def test_a_verified_warehouse_is_reached_by_every_driver_and_by_psql(tls_url: str, authority: Authority) -> None:
    with open_warehouse(Settings(warehouse_url=verified(tls_url, authority.ca))) as warehouse:  # SQLAlchemy
        with warehouse.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            assert driver.pgconn.ssl_in_use
        # ADBC's driver does not say whether it uses TLS. But the relay accepts nothing else, so this query uses TLS.
        assert execute_sql(warehouse, "select 1 as one").to_pylist() == [{"one": 1}]
        argv, environment = psql_command(warehouse)
    if shutil.which("psql"):  # psql of the system, because the embedded server's psql has no TLS
        asked = [*argv, "--no-psqlrc", "-c", "\\conninfo"]
        said = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
        assert "TLS" in said.stdout


def test_a_warehouse_that_cannot_show_who_it_is_gets_no_query(
    tls_url: str, authority: Authority, tmp_path: Path
) -> None:
    unknown, elsewhere = make_authority(tmp_path / "other").ca, tls_url.replace("localhost", "127.0.0.1")
    for url in (verified(tls_url, unknown), verified(elsewhere, authority.ca)):
        with pytest.raises(InputError, match="certificate"), open_warehouse(Settings(warehouse_url=url)):
            pass
