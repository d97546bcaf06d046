"""S3 or the warehouse fails while it is used: a one-line error names the server, and the same call succeeds later."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pytest
from sqlalchemy import make_url, text

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.socket_folder import PORT
from tests.faults.network import Mode, Network


@pytest.fixture
def network(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network between this process and S3."""
    with Network(urlsplit(os.environ["AWS_ENDPOINT_URL"]).port or 80) as network:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{network.port}")
        yield network


@pytest.mark.parametrize("mode", ["reset", "error 503"])
def test_an_s3_that_fails_is_worth_another_try(network: Network, s3_bucket: str, mode: Mode) -> None:
    storage = Storage(f"{s3_bucket}/faults")
    table = pa.table({"a": [1]})
    storage.write_table("a.parquet", table)
    network.turn(mode)
    said = rf"{s3_bucket}/faults answers with an error: .*AWS Error.*; try again"
    for ask in (
        lambda: storage.files(""),
        lambda: storage.read_table("a.parquet"),
        lambda: storage.write_table("b.parquet", table),
    ):
        with pytest.raises(NotReadyError, match=said):
            ask()
    network.turn("well")
    assert storage.files("") == ["a.parquet"]
    assert storage.read_table("a.parquet") == table


def test_an_s3_that_hangs_is_waited_for(network: Network, s3_bucket: str) -> None:
    storage = Storage(f"{s3_bucket}/faults")
    network.turn("hang")
    with pytest.raises(NotReadyError, match="answers with an error"):
        storage.files("")
    network.turn("well")
    storage.write_json("c.json", 1)


def test_a_file_that_is_not_there_is_no_failure_of_s3(network: Network, s3_bucket: str) -> None:
    with pytest.raises(FileNotFoundError):
        Storage(f"{s3_bucket}/faults").read_json("nowhere.json")


def test_a_warehouse_that_is_lost_at_work_is_worth_another_try(postgres: EmbeddedPostgres, warehouse_url: str) -> None:
    with Network(Path(postgres.socket_folder, f".s.PGSQL.{PORT}")) as network:
        url = make_url(warehouse_url).set(host="127.0.0.1", port=network.port, query={})
        settings = Settings(warehouse_url=url.render_as_string(hide_password=False))
        said = rf'the warehouse, database "\w+" at 127\.0\.0\.1:{network.port}, failed: .*; try again: no work is'

        def work() -> None:
            with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
                network.turn("reset")
                connection.execute(text("select 1"))

        with pytest.raises(NotReadyError, match=said):
            work()
        network.turn("well")
        with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
            assert connection.scalar(text("select 1")) == 1
