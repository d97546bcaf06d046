"""A staging area and a warehouse with two days loaded and one planned. Tests break copies of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import create_engine, make_url, text

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import CAPTION, FUSED, Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep.check import Result
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from tests.conftest import new_warehouse
from tests.opened import check, interval_tasks, unit_tasks

DAYS = [
    Interval(start=datetime(2026, 11, day, tzinfo=UTC), end=datetime(2026, 11, day, tzinfo=UTC) + timedelta(days=1))
    for day in (10, 11, 12)
]
_numbers = count(1)


def settings_for(shards: Path, home: Path, warehouse_url: str, **more: Any) -> Settings:
    return load_settings(
        laion2b=str(shards / "laion-2b"),
        laion_coco=str(shards / "laion-coco"),
        warehouse_url=warehouse_url,
        home=home,
        scratch=home / "scratch",
        buckets=4,
        chunk_rows=4,
        unit_tokens=800,
        **more,
    )


@dataclass
class Built:
    """The original staging area and warehouse, of which each test gets a copy, an ``Area``."""

    shards: Path
    home: Path
    warehouse_url: str


@dataclass
class Area:
    """A copy of the staging area and the warehouse for one test, which may break them."""

    shards: Path
    home: Path
    warehouse_url: str

    @property
    def settings(self) -> Settings:
        return self.with_settings()

    def with_settings(self, **more: Any) -> Settings:
        return settings_for(self.shards, **{"home": self.home, "warehouse_url": self.warehouse_url, **more})

    @property
    def storage(self) -> Storage:
        return Storage(self.settings.staging_uri)

    @property
    def staging(self) -> Path:
        return self.home / "staging"

    def copied_to(self, staging: str) -> Settings:
        """Settings with the staging area ``staging``, such as a prefix on S3, which gets a copy of all files."""
        remote = self.with_settings(staging=staging)
        storage = Storage(remote.staging_uri)
        for file in self.storage.tree():
            with self.storage.filesystem.open_input_stream(file.path) as stream, storage.publish(file.path) as copy:
                copy.write(stream.read())
        return remote

    def check(self, **options: Any) -> Result:
        """Run the checks. Includes young files, because no running task can own them here."""
        return check(self.settings, **{"safe_age": timedelta(0), **options})

    def rules(self, **options: Any) -> list[str]:
        return sorted({finding.rule for finding in self.check(**options).findings})

    def execute(self, *statements: str) -> None:
        engine = create_engine(self.warehouse_url)
        with engine.begin() as connection:
            connection.execute(text("set search_path = capsfusion"))
            for statement in statements:
                connection.execute(text(statement))
        engine.dispose()

    def one(self, query: str) -> Any:
        engine = create_engine(self.warehouse_url)
        with engine.connect() as connection:
            connection.execute(text("set search_path = capsfusion"))
            found = connection.execute(text(query)).scalar_one()
        engine.dispose()
        return found

    @property
    def planned(self) -> str:
        return str(self.one("select min(unit_id) from work_units where state <> 'loaded'"))

    def unit(self, unit_id: str) -> Unit:
        rows = self.one(f"select rows_in from work_units where unit_id = '{unit_id}'")
        fusion = self.one(f"select fusion_id from work_units where unit_id = '{unit_id}'")
        return Unit(unit_id=unit_id, fusion_id=fusion, rows=rows, tokens=0)

    def run_day(self, day: Interval) -> None:
        run_day(self.settings, day)

    def fuse(self, unit_id: str) -> None:
        fuse_by_hand(self.settings, self.unit(unit_id))


def run_day(settings: Settings, day: Interval) -> None:
    for unit in plan_day(settings, day):
        fuse_by_hand(settings, unit)
        unit_tasks.validate(settings, unit)
        unit_tasks.load(settings, unit)


def plan_day(settings: Settings, day: Interval, **options: Any) -> list[Unit]:
    for shard in interval_tasks.discover(settings, day):
        interval_tasks.pull(settings, shard)
    for group in interval_tasks.bucket_groups(settings):
        interval_tasks.pair(settings, day, group)
    return interval_tasks.plan(settings, day, **options)


def fuse_by_hand(settings: Settings, unit: Unit) -> None:
    """Write the chunks that torchrun would write, with made-up captions."""
    storage = Storage(settings.staging_uri)
    pairs = storage.read_table(layout.unit_pairs(unit.unit_id))
    captions = [
        {
            "row": n,
            "capsfusion": f"{raw} in a picture",
            "finish_reason": "stop",
            "prompt_tokens": 9,
            "caption_tokens": 9,
        }
        for n, raw in enumerate(pairs["laion_2b"].to_pylist())
    ]
    unit_tasks.fuse_started(settings, unit)
    schema = pa.schema([FUSED.field("row"), *CAPTION])
    known = pa.Table.from_pylist(captions, schema)
    chunks.publish_known(storage, layout.chunks_folder(unit.unit_id), unit.fusion_id, pairs, known)
    unit_tasks.fuse_finished(settings, unit)


@pytest.fixture(scope="session")
def built(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    folder = tmp_path_factory.mktemp("built")
    write_sample_data(folder / "shards", rows_per_day=16)
    with new_warehouse(postgres) as url:
        settings = settings_for(folder / "shards", folder / "home", url)
        for day in DAYS[:2]:
            run_day(settings, day)
        assert len(plan_day(settings, DAYS[2])) > 1
        yield Built(folder / "shards", folder / "home", url)


@pytest.fixture
def area(built: Built, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Area]:
    shutil.copytree(built.home / "staging", tmp_path / "staging")
    with copied_warehouse(postgres, built.warehouse_url) as url:
        yield Area(built.shards, tmp_path, url)


@contextmanager
def copied_warehouse(postgres: EmbeddedPostgres, url: str) -> Iterator[str]:
    database = f"checked_{next(_numbers)}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"create database {database} template {make_url(url).database} strategy file_copy"))
        yield postgres.url(database).render_as_string(hide_password=False)
        connection.execute(text(f"drop database {database} with (force)"))
    admin.dispose()
