"""On a full disk, a stage raises an error that names the disk and the remedy. With free space, the stage succeeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import create_engine, text

from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.fusion import chunks, launcher
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import CAPTION, FUSED, Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.shards.discovery import discover
from capsfusion_tasks.shards.sources import SideSource, open_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.faults import disks
from tests.opened import interval_tasks, unit_tasks
from tests.shards.web_server import File, WebServer

DAYS = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 13, tzinfo=UTC))


class Pipeline:
    """Calls the stages one by one, as tasks do, for an interval of three days. Captions are made up, not fused."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps: dict[str, Callable[[], Any]] = {
            "discover": self.discover,
            "pull": self.pull,
            "pair": self.pair,
            "plan": self.plan,
            "fuse": self.fuse,
            "validate": self.validate,
            "load": self.load,
            "export": self.export,
        }

    def up_to(self, step: str) -> None:
        for name, run in self.steps.items():
            if name == step:
                return
            run()

    def after(self, step: str) -> None:
        names = list(self.steps)
        for name in names[names.index(step) + 1 :]:
            self.steps[name]()

    def discover(self) -> None:
        self.shards = interval_tasks.discover(self.settings, DAYS)

    def pull(self) -> None:
        for shard in self.shards:
            interval_tasks.pull(self.settings, shard)

    def pair(self) -> None:
        for group in interval_tasks.bucket_groups(self.settings):
            interval_tasks.pair(self.settings, DAYS, group)

    def plan(self) -> None:
        self.units = interval_tasks.plan(self.settings, DAYS)

    @property
    def unit(self) -> Unit:
        [unit] = self.units
        return unit

    def fuse(self) -> None:
        storage = Storage(self.settings.staging_uri)
        pairs = storage.read_table(layout.unit_pairs(self.unit.unit_id), columns=["laion_2b", "laion_coco"])
        rows = [
            {"row": row, "capsfusion": f"{pair['laion_coco']} {row}", "finish_reason": "stop"}
            | {"prompt_tokens": 100, "caption_tokens": 20}
            for row, pair in enumerate(pairs.to_pylist())
        ]
        known = pa.Table.from_pylist(rows, pa.schema([FUSED.field("row"), *CAPTION]))
        chunks.publish_known(storage, layout.chunks_folder(self.unit.unit_id), self.unit.fusion_id, pairs, known)

    def validate(self) -> None:
        unit_tasks.validate(self.settings, self.unit, accept_rejections=True)

    def load(self) -> None:
        unit_tasks.load(self.settings, self.unit)

    def export(self) -> None:
        interval_tasks.export(self.settings, DAYS, str(Path(self.settings.staging_uri).parent / "export"))

    def report(self) -> dict[str, Any]:
        return interval_tasks.report(self.settings, DAYS)


@pytest.fixture
def settings(shards: Path, tiny_model: Path, warehouse_url: str, disk: Path, tmp_path: Path) -> Settings:
    return load_settings(
        laion2b=str(shards / FOLDER["laion_2b"]),
        laion_coco=str(shards / FOLDER["laion_coco"]),
        staging=str(disk / "staging"),
        scratch=str(tmp_path / "scratch"),
        home=tmp_path,
        warehouse_url=warehouse_url,
        model=str(tiny_model),
        num_beams=1,
        max_new_tokens=4,
        chunk_rows=16,
        buckets=4,
    )


def assert_all_is_there(pipeline: Pipeline) -> None:
    report = pipeline.report()
    assert report["failures"] == []
    assert report["units"]["loaded"] == 1
    assert report["summary"]["rows_in"] == report["summary"]["accepted"] + report["summary"]["rejected"] > 50


@pytest.mark.parametrize(
    ("step", "file"),
    [
        ("discover", r"((config|shards)\.json|\S+)"),  # the list of shards, or the record of its next change
        ("pull", r"\S+"),  # the shard's mark, the record of its next change, or a bucket file
        ("pair", r"0000\d\.parquet"),
        ("plan", r"pairs\.parquet"),
        ("fuse", r"00000-known\.parquet"),
        ("validate", r"validated\.parquet"),
        ("export", r"_export\.json"),
    ],
)
def test_staging_is_full(settings: Settings, disk: Path, step: str, file: str) -> None:
    pipeline = Pipeline(settings)
    pipeline.up_to(step)
    disks.fill(disk)
    said = rf"no space for {file} in {disk}/\S+ \(0\.0 MB of 16\.8 MB are free\): make room there, then try again"
    with pytest.raises(NotReadyError, match=said):
        pipeline.steps[step]()
    disks.make_room(disk)
    pipeline.steps[step]()
    pipeline.after(step)
    assert_all_is_there(pipeline)
    assert [path.name for path in disk.rglob(".*")] == []  # no half-written file


def test_scratch_is_full(settings: Settings, disk: Path, tmp_path: Path) -> None:
    changes = {"staging": str(tmp_path / "staging"), "scratch": disk / "scratch"}
    pipeline = Pipeline(settings.model_copy(update=changes))
    pipeline.up_to("pull")
    disks.fill(disk)
    with pytest.raises(NotReadyError, match=rf"no space for the rows of laion_2b/\S+ in {disk}/scratch .*SCRATCH"):
        pipeline.pull()
    disks.make_room(disk)
    pipeline.pull()
    pipeline.after("pull")
    assert_all_is_there(pipeline)
    assert list((disk / "scratch").iterdir()) == []


def test_scratch_has_no_room_for_a_download(disk: Path, tmp_path: Path) -> None:
    content = bytes(4 << 20)
    with WebServer().running() as web:
        web.files = {"/list.txt": File(b"a.parquet\n"), "/a.parquet": File(content, arrived=DAYS.start)}
        source = open_source(f"{web.url}/list.txt", load_settings(scratch=disk / "scratch"))
        [shard] = discover({"laion_2b": SideSource(source, lambda path: True)}, DAYS, Storage(str(tmp_path)))
        disks.fill(disk, leave=1 << 20)
        with pytest.raises(NotReadyError, match=rf"it needs 0\.00 GB more .* free in {disk}/scratch/\S+: make room"):
            source.open(shard).__enter__()
        disks.make_room(disk)
        with source.open(shard) as stream:
            assert stream.read() == content


@pytest.mark.usefixtures("one_process")
def test_staging_is_full_while_ranks_fuse(settings: Settings, disk: Path) -> None:
    pipeline = Pipeline(settings)
    pipeline.up_to("fuse")
    disks.fill(disk)
    argv = unit_tasks.fuse_argv(settings, pipeline.unit)
    said = rf"no space for 0000\d-\w+\.parquet in {disk}/\S+/chunks .*make room there"
    with pytest.raises(NotReadyError, match=said):
        launcher.run(argv, on_line=lambda line: None)
    disks.make_room(disk)
    launcher.run(argv, on_line=lambda line: None)
    assert unit_tasks.is_fused(settings, pipeline.unit)
    pipeline.after("fuse")
    assert_all_is_there(pipeline)


@contextmanager
def tables_on(disk: Path, warehouse_url: str) -> Iterator[None]:
    """Move the caption tables to ``disk`` within the block."""
    engine = create_engine(warehouse_url, isolation_level="AUTOCOMMIT")
    folder = disk / "postgres"
    folder.mkdir()
    with engine.connect() as connection:
        data = connection.scalar(text("show data_directory"))
        disk.parent.chmod(0o711)  # lets the server's account enter the folder
        shutil.chown(folder, Path(data).owner())
        connection.execute(text(f"create tablespace small location '{folder}'"))
        try:
            for table in ("fused_captions", "rejected_captions"):
                connection.execute(text(f"alter table capsfusion.{table} set tablespace small"))
            yield
        finally:
            for table in ("fused_captions", "rejected_captions"):
                connection.execute(text(f"alter table capsfusion.{table} set tablespace pg_default"))
            connection.execute(text("drop tablespace small"))
    engine.dispose()


def test_the_warehouse_is_full(settings: Settings, disk: Path, tmp_path: Path, warehouse_url: str) -> None:
    pipeline = Pipeline(settings.model_copy(update={"staging": str(tmp_path / "staging")}))
    pipeline.up_to("load")
    with tables_on(disk, warehouse_url):
        disks.fill(disk)
        with pytest.raises(NotReadyError, match=r"the warehouse, database .*No space left on device.*Check free disk"):
            pipeline.load()
        disks.make_room(disk)
        pipeline.load()
        assert_all_is_there(pipeline)


def test_staging_is_read_only(settings: Settings, disk: Path) -> None:
    pipeline = Pipeline(settings)
    pipeline.up_to("plan")
    assert disks.close(disk)
    try:
        with pytest.raises(NotReadyError, match=rf"read-only for pairs\.parquet in {disk}/\S+: mount it for writing"):
            pipeline.plan()
    finally:
        disks.reopen(disk)
    pipeline.plan()
    pipeline.after("plan")
    assert_all_is_there(pipeline)
