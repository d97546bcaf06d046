"""The Iceberg table beside a real PostgreSQL, which also has the catalog. Read back by PyIceberg and DuckDB."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from pyiceberg.table import Table, Transaction
from sqlalchemy import text
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.context import open_context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.lake.catalog import open_lake
from capsfusion_tasks.lake.maintenance import Maintained
from capsfusion_tasks.lake.sync import Synced, sole_writer
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.tasks import lake_tasks
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.lake_units import captions_of, missing_units
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.warehouse.conftest import plan, rows

NOW = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(warehouse_url: str, tmp_path: Path) -> Settings:
    return Settings(warehouse_url=warehouse_url, home=tmp_path, lake_table="captions.fused")


@pytest.fixture
def warehouse(settings: Settings) -> Iterator[Warehouse]:
    with open_warehouse(settings) as warehouse:
        yield warehouse


def load(warehouse: Warehouse, unit_id: str, numbers: range, fusion_id: str = "f1", **changes: Any) -> None:
    replace = changes.pop("replace", False)
    plan(warehouse, (unit_id, len(numbers)), fusion_id=fusion_id)
    refused = {number: ["loop"] for number in numbers if number % 5 == 0}
    load_unit(warehouse, unit_id, rows(*numbers, rejected=refused, **changes), replace=replace)


def sync(settings: Settings) -> Synced:
    with open_context(settings) as context:
        return lake_tasks.sync_lake(context, say=lambda line: None)


def maintain(settings: Settings, before: datetime, **options: int) -> Maintained:
    with open_context(settings) as context:
        return lake_tasks.maintain_lake(context, before=before, say=lambda line: None, **options)


@contextmanager
def table_of(settings: Settings) -> Iterator[Table]:
    with open_warehouse(settings) as warehouse, open_lake(settings, warehouse) as lake:
        table = lake.table()
        assert table is not None
        yield table


def captions(settings: Settings) -> pa.Table:
    with table_of(settings) as table:
        return table.scan().to_arrow().sort_by([("pair_id", "ascending"), ("fusion_id", "ascending")])


def expected(warehouse: Warehouse) -> pa.Table:
    found = execute_sql(warehouse, "select * from fused_captions order by pair_id, fusion_id")
    return found.set_column(0, "pair_id", found["pair_id"].cast(pa.string()))


def assert_equal(settings: Settings, warehouse: Warehouse) -> None:
    assert captions(settings).to_pylist() == expected(warehouse).to_pylist()


def test_a_loaded_unit_is_one_snapshot(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    load(warehouse, "u2", range(20, 50), fusion_id="f2")
    done = sync(settings)
    assert (done.units, done.rows, done.found) == (2, 40, 0)
    assert_equal(settings, warehouse)
    with table_of(settings) as table:
        properties = [snapshot.summary.additional_properties for snapshot in table.snapshots()]
        assert [found["capsfusion.unit"] for found in properties] == ["u1", "u2"]
        assert {row["partition"]["fusion_id"] for row in table.inspect.partitions().to_pylist()} == {"f1", "f2"}
        found = table.scan(row_filter="fusion_id == 'f2'").to_duckdb("f2").sql("select count(*) from f2")
        assert found.fetchall() == [(24,)]


def test_a_second_sync_writes_only_what_is_new(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    assert sync(settings).units == 0
    load(warehouse, "u2", range(20, 30))
    assert sync(settings).units == 1
    assert_equal(settings, warehouse)


def test_captions_that_were_replaced_are_replaced_in_the_lake(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    load(warehouse, "u2", range(20, 30))
    sync(settings)
    load(warehouse, "u3", range(15, 25), capsfusion="newer", replace=True)
    assert sync(settings).units == 3
    assert Counter(captions(settings)["capsfusion"].to_pylist())["newer"] == 8
    assert_equal(settings, warehouse)


def test_a_unit_without_accepted_captions_is_done_too(settings: Settings, warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 1))
    load_unit(warehouse, "u1", rows(0, rejected={0: ["loop"]}))
    assert sync(settings).rows == 0
    load(warehouse, "u2", range(1, 10))
    sync(settings)
    assert sync(settings).units == 0


class KilledError(BaseException):
    pass


def killed(where: str, at: int) -> Callable[..., Any]:
    """Kills a sync before or after its ``at``-th commit to the lake."""
    left, commit = at, Transaction.commit_transaction

    def committing(transaction: Transaction) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and where == "before":
            raise KilledError
        done = commit(transaction)
        if left == 0:
            raise KilledError
        return done

    return committing


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_commits_and_repeated_has_each_caption_once(
    settings: Settings, warehouse: Warehouse, seed: int
) -> None:
    rng = random.Random(seed)
    for round_ in range(3):
        load(warehouse, f"a{round_}", range(20 * round_, 20 * round_ + 20))
        load(warehouse, f"b{round_}", range(20 * round_ + 5, 20 * round_ + 15), capsfusion=f"{round_}", replace=True)
        for _ in range(2):
            kill = killed(rng.choice(("before", "after")), rng.randint(1, 4))
            with mock.patch.object(Transaction, "commit_transaction", kill), suppress(KilledError):
                maintain(settings, NOW, min_files=2)
    sync(settings)
    assert_equal(settings, warehouse)


def test_a_unit_whose_record_was_lost_is_found_by_its_snapshot(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    with warehouse.engine.begin() as connection:
        connection.execute(text("delete from capsfusion.lake_units"))
    done = sync(settings)
    assert (done.units, done.found) == (0, 1)
    assert_equal(settings, warehouse)


def test_maintenance_puts_files_together_and_removes_old_ones(
    settings: Settings, warehouse: Warehouse, tmp_path: Path
) -> None:
    for number in range(4):
        load(warehouse, f"u{number}", range(10 * number, 10 * number + 10))
    sync(settings)
    done = maintain(settings, NOW, min_files=4)
    assert (done.partitions, done.snapshots) == (1, 5)
    assert len([*tmp_path.rglob("lake/**/data/**/*.parquet")]) == 1
    assert_equal(settings, warehouse)
    load(warehouse, "u9", range(5, 15), capsfusion="newer", replace=True)
    sync(settings)
    assert_equal(settings, warehouse)
    assert maintain(settings, NOW - timedelta(days=365 * 90)) == Maintained()


def test_a_dropped_table_gets_everything_again(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    with open_lake(settings, warehouse) as lake:
        lake.catalog.drop_table(lake.name)
    assert sync(settings).units == 1
    assert_equal(settings, warehouse)


def test_two_writers_do_not_run_at_the_same_time(settings: Settings, warehouse: Warehouse) -> None:
    said = r"another process writes to the Iceberg table captions"
    with open_lake(settings, warehouse) as lake, sole_writer(warehouse, lake), pytest.raises(NotReadyError, match=said):
        sync(settings)


def test_captions_that_are_loaded_during_a_sync_come_with_the_next(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, "u1", range(20))

    def loading(*arguments: Any) -> Any:
        monkeypatch.undo()
        load(warehouse, "u2", range(10, 30), capsfusion="newer", replace=True)
        return captions_of(*arguments)

    monkeypatch.setattr("capsfusion_tasks.warehouse.lake_units.captions_of", loading)
    sync(settings)
    with warehouse.engine.connect() as connection, table_of(settings) as table:
        waiting = missing_units(connection, str(table.metadata.table_uuid))
    assert [unit.unit_id for unit in waiting] == ["u1", "u2"]
    sync(settings)
    assert_equal(settings, warehouse)


def test_the_commands_say_what_they_did(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, "u1", range(20))
    for name, value in settings.environment().items():
        if value and name in ("CAPSFUSION_HOME", "CAPSFUSION_WAREHOUSE_URL", "CAPSFUSION_LAKE_TABLE"):
            monkeypatch.setenv(name, value)
    for command, said in (
        (["lake", "sync"], "1 units with 16 captions written"),
        (["lake", "maintain", "--keep-days", "0"], "0 partitions rewritten, 0 snapshots and 0 unused files removed"),
    ):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, said in done.stderr) == (0, True), (done.stderr, done.exception)


@pytest.mark.parametrize(
    ("variables", "error", "said"),
    [
        ({}, InputError, "CAPSFUSION_LAKE_TABLE is not set"),
        ({"PYICEBERG_CATALOG__CAPSFUSION__TYPE": "nope"}, InputError, "catalog 'capsfusion' refuses: .*nope"),
        ({"PYICEBERG_CATALOG__CAPSFUSION__URI": "http://127.0.0.1:9"}, NotReadyError, "cannot be used now"),
    ],
)
def test_a_lake_that_cannot_be_used_is_said(
    settings: Settings,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given = settings if variables else settings.model_copy(update={"lake_table": None})
    with pytest.raises(error, match=said):
        sync(given)
