"""Tests the Iceberg table with a real PostgreSQL, which also has the catalog. PyIceberg and DuckDB read the table."""

from __future__ import annotations

import ast
import random
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from pydantic import SecretStr
from pyiceberg.table import Table, Transaction
from pyiceberg.utils.config import Config
from sqlalchemy import text
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.context import open_context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.lake import maintenance
from capsfusion_tasks.lake.catalog import CATALOG, open_lake
from capsfusion_tasks.lake.maintenance import Maintained
from capsfusion_tasks.lake.sync import Synced, sole_writer
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import lake_tasks
from capsfusion_tasks.tasks.local_run import run_pipeline, run_replay
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.export_selection import named_columns
from capsfusion_tasks.warehouse.lake_units import captions_of, make_catalog_schema, missing_units
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.roles import LOADER
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.conftest import login, plain_url
from tests.tasks.test_export import record_source
from tests.warehouse.conftest import DAY, plan, rows

PAGE = (Path(__file__).parents[2] / "docs" / "sinks.md").read_text()
NOW = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(warehouse_url: str, tmp_path: Path) -> Settings:
    return Settings(warehouse_url=warehouse_url, home=tmp_path, lake_table="captions.fused")


@pytest.fixture
def warehouse(settings: Settings) -> Iterator[Warehouse]:
    """A warehouse whose ledger has the two shards that the tests' captions come from."""
    with open_warehouse(settings) as warehouse:
        record_source(warehouse, "/data/laion2B-en", "laion_2b_shard 7")
        record_source(warehouse, "s3://bucket/laion-coco", "laion_coco_shard 8", "laion_coco")
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
    found = execute_sql(
        warehouse,
        "select fused.*, raw.source as laion_2b_source, coco.source as laion_coco_source, model as capsfusion_model"
        " from fused_captions fused join fusions using (fusion_id)"
        " left join shards raw on raw.shard_id = laion_2b_shard"
        " left join shards coco on coco.shard_id = laion_coco_shard order by pair_id, fusion_id",
    )
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


def test_captions_that_were_rejected_again_change_nothing_in_the_lake(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(10))
    assert sync(settings).units == 1
    load(warehouse, "u2", range(0, 10, 5), replace=True)
    with warehouse.engine.connect() as connection, table_of(settings) as table:
        assert [each.unit_id for each in missing_units(connection, str(table.metadata.table_uuid))] == ["u2"]
    assert sync(settings).units == 0
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
    """A ``commit_transaction`` that kills the sync before or after its ``at``-th commit to the Iceberg table."""
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
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


def test_a_partition_of_large_files_is_not_rewritten(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, "u1", range(20))
    load(warehouse, "u2", range(20, 40))
    monkeypatch.setattr(maintenance, "SMALL", 0)
    assert maintain(settings, NOW - timedelta(days=365 * 90), min_files=2).partitions == 0


def test_a_tagged_snapshot_keeps_its_files(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    before = captions(settings)
    with table_of(settings) as table:
        table.manage_snapshots().create_tag(table.current_snapshot().snapshot_id, "paper").commit()
    load(warehouse, "u2", range(5, 25), capsfusion="newer", replace=True)
    maintain(settings, NOW, min_files=2)
    with table_of(settings) as table:
        tagged = table.scan(snapshot_id=table.refs()["paper"].snapshot_id).to_arrow()
    assert tagged.sort_by("pair_id").to_pylist() == before.to_pylist()
    assert_equal(settings, warehouse)


def test_a_column_that_the_warehouse_got_later_is_added(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, "u1", range(20))
    older = [name for name in named_columns("all") if name not in ("flags", "rescued_from", "beam")]
    monkeypatch.setattr("capsfusion_tasks.warehouse.lake_units.named_columns", lambda names: tuple(older))
    sync(settings)
    monkeypatch.undo()
    load(warehouse, "u2", range(20, 30), flags=["wild"])
    maintain(settings, NOW, min_files=2)
    found, stored = captions(settings), expected(warehouse)
    assert found.drop_columns("flags").select(older).equals(stored.drop_columns("flags").select(older))
    assert Counter(map(str, found["flags"].to_pylist())) == {"None": 16, "['wild']": 8}


def test_a_table_of_somebody_else_is_refused(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    with open_lake(settings, warehouse) as lake:
        lake.catalog.create_namespace("captions")
        lake.catalog.create_table(lake.name, pa.schema([("pair_id", pa.string()), ("price", pa.int64())]))
    for call in (sync, lambda settings: maintain(settings, NOW)):
        with pytest.raises(InputError, match=r"is not a table of captions: it lacks fusion_id, loaded_at, unit_id"):
            call(settings)


def test_a_table_whose_files_are_gone_is_said(settings: Settings, warehouse: Warehouse, tmp_path: Path) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    shutil.rmtree(tmp_path / "lake")
    with pytest.raises(InputError, match=r"a file of the Iceberg table .* is missing, .*/lake/captions/fused"):
        sync(settings)


def test_a_login_that_may_not_create_the_catalog_is_told_what_to_run(
    settings: Settings, warehouse: Warehouse, postgres: EmbeddedPostgres, warehouse_url: str
) -> None:
    load(warehouse, "u1", range(20))
    as_loader = settings.model_copy(update={"warehouse_url": SecretStr(login(postgres, warehouse_url, LOADER))})
    with pytest.raises(InputError, match=r"needs the schema capsfusion_lake .* owner to run: ") as told:
        sync(as_loader)
    with warehouse.engine.begin() as connection:
        connection.execute(text("create schema capsfusion_lake"))
    with pytest.raises(InputError, match=r"Iceberg catalog 'capsfusion', or the warehouse, refuses the request: "):
        sync(as_loader)
    with warehouse.engine.begin() as connection:
        connection.execute(text("drop schema capsfusion_lake"))
        connection.execute(text(str(told.value).rpartition("to run: ")[2]))
    assert sync(as_loader).units == 1


def test_a_run_and_a_replay_bring_missing_units(settings: Settings, warehouse: Warehouse, tmp_path: Path) -> None:
    empty = tmp_path / "shards"
    empty.mkdir()
    settings = settings.model_copy(update={"laion2b": str(empty), "laion_coco": str(empty)})
    load(warehouse, "u1", range(20))
    assert run_pipeline(settings, DAY, say=lambda line: None)["failures"] == []
    assert captions(settings).num_rows == 16
    load(warehouse, "u2", range(20, 30))
    nothing = Replay.of_selection(fusion_id="f1", reasons=("language",))
    assert run_replay(settings, nothing, say=lambda line: None)["failures"] == []
    assert_equal(settings, warehouse)


def test_the_files_may_lie_on_s3(
    settings: Settings, warehouse: Warehouse, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__CAPSFUSION__WAREHOUSE", f"{s3_bucket}/{tmp_path.name}")
    load(warehouse, "u1", range(20))
    maintain(settings, NOW)
    assert Storage(f"{s3_bucket}/{tmp_path.name}/captions/fused").folders("") == ["data", "metadata"]
    assert_equal(settings, warehouse)


def test_a_dropped_table_gets_everything_again(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    sync(settings)
    with open_lake(settings, warehouse) as lake:
        lake.catalog.drop_table(lake.name)
    assert sync(settings).units == 1
    assert_equal(settings, warehouse)


def test_two_writers_do_not_run_at_the_same_time(settings: Settings, warehouse: Warehouse) -> None:
    said = r"another process is writing to the Iceberg table captions"
    with open_lake(settings, warehouse) as lake, sole_writer(warehouse, lake), pytest.raises(NotReadyError, match=said):
        sync(settings)


def test_a_sync_that_lost_its_lock_writes_nothing(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(warehouse, "u1", range(20))

    def losing(*arguments: Any) -> Any:
        with warehouse.engine.begin() as connection:
            connection.execute(text("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"))
        return captions_of(*arguments)

    monkeypatch.setattr("capsfusion_tasks.warehouse.lake_units.captions_of", losing)
    with pytest.raises(NotReadyError, match="try again"):
        sync(settings)
    with open_lake(settings, warehouse) as lake:
        assert lake.table() is None


def test_a_day_ends_at_midnight_utc(settings: Settings, warehouse: Warehouse) -> None:
    load(warehouse, "u1", range(20))
    with warehouse.engine.begin() as connection:
        connection.execute(text(f"alter database {warehouse.url.database} set timezone to 'Asia/Tokyo'"))
        connection.execute(
            text(
                "update capsfusion.fused_captions set loaded_at = timestamptz '2026-11-11 00:00:00+00'"
                " - (laion_2b_row % 2) * interval '1 microsecond'"
            )
        )
    warehouse.engine.dispose()
    assert maintain(settings, NOW, min_files=1).partitions == 2
    with table_of(settings) as table:
        days = [row["partition"]["loaded_day"] for row in table.inspect.partitions().to_pylist()]
    assert sorted(map(str, days)) == ["2026-11-10", "2026-11-11"]
    assert_equal(settings, warehouse)


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


def test_the_commands_of_the_page_do_what_it_says(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    load(warehouse, "u1", range(20))
    monkeypatch.setenv("CAPSFUSION_HOME", str(settings.home))
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", plain_url(settings))
    said, of_rest = [], {}
    for program, rest in re.findall(r"^ {4}(export|capsfusion) (.*)$", PAGE, re.MULTILINE):
        name, _, value = rest.partition("=")
        if program == "capsfusion":
            done = CliRunner().invoke(app, shlex.split(rest))
            assert done.exit_code == 0, (done.stderr, done.exception)
            said.append(done.stderr.splitlines()[-1])
        elif name.startswith("PYICEBERG_"):  # for a REST catalog, which this test does not have
            of_rest[name] = value
        else:
            monkeypatch.setenv(name, value)
    assert said == [
        "1 units with 16 captions written",
        "0 partitions rewritten, 0 snapshots and 0 unused files removed",
    ]
    with monkeypatch.context() as patch:
        for name, value in of_rest.items():
            patch.setenv(name, value)
        assert Config().get_catalog_config(CATALOG) == {
            "type": "rest",
            "uri": "https://catalog.example.com",
            "warehouse": "captions",
        }
    monkeypatch.setenv("PYICEBERG_CATALOG__CAPSFUSION__URI", make_catalog_schema(warehouse))
    # PyIceberg reads its variables when it is imported, so they must be read again here.
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    monkeypatch.chdir(tmp_path)
    Path(".capsfusion").symlink_to(settings.home)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        *setup, last = ast.parse(block).body
        names: dict[str, Any] = {}
        exec(compile(ast.Module(setup, []), "page", "exec"), names)  # noqa: S102
        assert isinstance(last, ast.Expr)
        found = eval(compile(ast.Expression(last.value), "page", "eval"), names)  # noqa: S307
        everything = captions(settings).select(found.column_names)
        assert found.sort_by("image_url").to_pylist() == everything.sort_by("image_url").to_pylist()


@pytest.mark.parametrize(
    ("variables", "error", "said"),
    [
        ({}, InputError, "CAPSFUSION_LAKE_TABLE is not set"),
        ({"PYICEBERG_CATALOG__CAPSFUSION__TYPE": "nope"}, InputError, "catalog 'capsfusion' cannot be used: .*nope"),
        ({"PYICEBERG_CATALOG__CAPSFUSION__URI": "http://127.0.0.1:9"}, NotReadyError, "cannot be used now"),
        (
            {"PYICEBERG_CATALOG__CAPSFUSION__TYPE": "rest", "PYICEBERG_CATALOG__CAPSFUSION__URI": "localhost:9"},
            InputError,
            "has no usable address: .*localhost:9",
        ),
        (
            {"PYICEBERG_CATALOG__CAPSFUSION__WAREHOUSE": "/proc/lake"},
            InputError,
            "/proc/lake.* another location, set PYICEBERG_CATALOG__CAPSFUSION__WAREHOUSE",
        ),
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
    load(warehouse, "u1", range(3))
    given = settings if variables else settings.model_copy(update={"lake_table": None})
    with pytest.raises(error, match=said):
        sync(given)
