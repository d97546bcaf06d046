"""A run in which most shards are unusable. An unusable shard fails only its own task, and the report lists it."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.opened import check, interval_tasks

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
ROWS = pa.table({"URL": [f"http://a/{n}.jpg" for n in range(100)], "TEXT": [f"Text {n}" for n in range(100)]})
LARGE_ROWS = 1_000_000  # of 200 bytes
SAID = {
    "cut.parquet": "cannot be read as Parquet",
    "empty.parquet": "cannot be read as Parquet",
    "text.parquet": "cannot be read as Parquet",
    "no-url.parquet": "lacks a column for url (named url); it has LINK, TEXT",
    "number.parquet": "TEXT is int64, expected text",
    "dead.parquet": "dead.parquet is a dead link",
    "loop.parquet": "Too many levels of symbolic links",
    "unmounted": "unmounted is a dead link",
    "pointer.parquet": "is a Git LFS pointer",
}


def arrive(*files: Path, hour: int = 6) -> None:
    time = (DAY.start + timedelta(hours=hour)).timestamp()
    for file in files:
        os.utime(file, (time, time))


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, warehouse_url: str) -> Settings:
    """Settings for sources with a good shard on each side, and two dead links beside the raw shard."""
    raw, coco = tmp_path / "raw", tmp_path / "coco"
    raw.mkdir()
    coco.mkdir()
    pq.write_table(ROWS, raw / "good.parquet")
    captions = [f"Caption {n}." for n in range(100)]
    pq.write_table(ROWS.append_column("top_caption", [captions]), coco / "good.parquet")
    arrive(raw / "good.parquet", coco / "good.parquet")
    (raw / "dead.parquet").symlink_to(tmp_path / "moved.parquet")
    (raw / "unmounted").symlink_to(tmp_path / "disk2")
    return load_settings(
        laion2b=str(raw),
        laion_coco=str(coco),
        home=tmp_path / "home",
        scratch=tmp_path / "scratch",
        model=str(tiny_model),
        warehouse_url=warehouse_url,
    )


@pytest.fixture
def many_bad(settings: Settings) -> Settings:
    raw, coco = Path(settings.laion2b), Path(settings.laion_coco)
    (raw / "cut.parquet").write_bytes((raw / "good.parquet").read_bytes()[:-100])
    (raw / "empty.parquet").write_bytes(b"")
    (raw / "text.parquet").write_text("URL,TEXT\nhttp://a/1.jpg,Text 1\n")
    (raw / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    pq.write_table(ROWS.rename_columns(["LINK", "TEXT"]), raw / "no-url.parquet")
    pq.write_table(ROWS.set_column(1, "TEXT", pa.array(range(100))), raw / "number.parquet")
    pq.ParquetWriter(raw / "no-row-groups.parquet", ROWS.schema).close()
    pq.write_table(ROWS.slice(0, 0), raw / "no-rows.parquet")
    large = pa.table(
        {
            "URL": [f"http://large/{n:080}.jpg" for n in range(LARGE_ROWS)],
            "TEXT": [f"{n:0100}" for n in range(LARGE_ROWS)],
        }
    )
    pq.write_table(large, raw / "large.parquet", row_group_size=LARGE_ROWS, use_dictionary=False, compression="none")
    assert pq.read_metadata(raw / "large.parquet").row_group(0).total_byte_size > 190 << 20
    first = large.slice(LARGE_ROWS - 1).append_column("top_caption", [["A large file."]])
    pq.write_table(first, coco / "large.parquet")
    arrive(*(file for file in (*raw.iterdir(), *coco.iterdir()) if file.exists()))
    (raw / "loop.parquet").symlink_to("loop.parquet")
    return settings


def joined(settings: Settings, interval: Interval) -> int:
    """Join all buckets of the interval. Returns the number of pairs."""
    return sum(
        interval_tasks.pair(settings, interval, group)["pairs"] for group in interval_tasks.bucket_groups(settings)
    )


@pytest.mark.slow
def test_bad_shards_fail_alone_and_the_report_names_each(many_bad: Settings) -> None:
    settings, failed = many_bad, {}
    for shard in interval_tasks.discover(settings, DAY):
        try:
            interval_tasks.pull(settings, shard)
        except InputError as error:
            failed[shard.path] = str(error)
    assert failed.keys() == SAID.keys()
    for path, said in SAID.items():
        assert f"raw/{path}" in failed[path]
        assert said in failed[path]
    assert joined(settings, DAY) == 101
    assert sum(unit.rows for unit in interval_tasks.plan(settings, DAY)) == 101

    report = interval_tasks.report(settings, DAY)
    assert report["sides"]["laion_2b"].items() >= {"shards": 13, "pulled": 4, "failed": 9}.items()
    assert report["sides"]["laion_2b"]["rows"] == LARGE_ROWS + 100
    for path, said in SAID.items():
        [line] = [line for line in report["failures"] if path in line]
        assert said in line
        assert line in report["text"]


def test_a_shard_that_can_be_read_again_is_taken_in_by_the_next_run(settings: Settings, tmp_path: Path) -> None:
    def run() -> dict[str, int]:
        for shard in interval_tasks.discover(settings, DAY):
            with suppress(InputError):
                interval_tasks.pull(settings, shard)
        return interval_tasks.report(settings, DAY)["sides"]["laion_2b"]

    assert run().items() >= {"shards": 3, "pulled": 1, "failed": 2}.items()
    for name in ("moved.parquet", "disk2/more.parquet"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        pq.write_table(ROWS.slice(0, 10), file)
        arrive(file)
    assert run().items() >= {"shards": 3, "pulled": 3, "failed": 0, "rows": 120}.items()
    with open_warehouse(settings) as warehouse:
        left = execute_sql(warehouse, "select path from shards where state <> 'pulled' order by path").to_pylist()
        failed = execute_sql(warehouse, "select count(*) as n from shards where state = 'failed'").to_pylist()
    # No interval's list contains the third shard any more.
    assert left == [{"path": "dead.parquet"}, {"path": "unmounted"}]
    assert failed == [{"n": 0}]
    assert check(settings, sources=True, safe_age=timedelta(0)).findings == []


def test_check_lists_the_sources_of_the_lists_where_none_is_set(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The default sources are on the hub, which is unreachable here.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    names = {"home", "scratch", "model", "warehouse_url"}
    unset = load_settings(**{name: getattr(settings, name) for name in names})
    assert check(unset, sources=True).findings == []
    interval_tasks.discover(settings, DAY)
    late = Path(settings.laion2b) / "late.parquet"
    pq.write_table(ROWS, late)
    arrive(late, hour=7)
    [finding] = check(unset, sources=True, safe_age=timedelta(0)).findings
    assert (finding.rule, finding.where) == ("shard-late", "laion_2b/late.parquet")
