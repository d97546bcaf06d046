"""A run over shards of which most cannot be used: each fails alone, the others are done, the report says so."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Interval, Settings, load_settings
from tests.opened import interval_tasks

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
ROWS = pa.table({"URL": [f"http://a/{n}.jpg" for n in range(100)], "TEXT": [f"Text {n}" for n in range(100)]})
LARGE_ROWS = 1_000_000  # of 200 bytes
SAID = {
    "cut.parquet": "cannot be read as Parquet",
    "empty.parquet": "cannot be read as Parquet",
    "text.parquet": "cannot be read as Parquet",
    "no-url.parquet": "lacks a column for url (as url); it has LINK, TEXT",
    "number.parquet": "TEXT is int64, expected text",
}


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, warehouse_url: str) -> Settings:
    raw, coco = tmp_path / "raw", tmp_path / "coco"
    raw.mkdir()
    coco.mkdir()
    pq.write_table(ROWS, raw / "good.parquet")
    (raw / "cut.parquet").write_bytes((raw / "good.parquet").read_bytes()[:-100])
    (raw / "empty.parquet").write_bytes(b"")
    (raw / "text.parquet").write_text("URL,TEXT\nhttp://a/1.jpg,Text 1\n")
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
    captions = [f"Caption {n}." for n in range(100)]
    pq.write_table(ROWS.append_column("top_caption", [captions]), coco / "good.parquet")
    first = large.slice(LARGE_ROWS - 1).append_column("top_caption", [["A large file."]])
    pq.write_table(first, coco / "large.parquet")
    arrives = (DAY.start + timedelta(hours=6)).timestamp()
    for file in (*raw.iterdir(), *coco.iterdir()):
        os.utime(file, (arrives, arrives))
    return load_settings(
        laion2b=str(raw),
        laion_coco=str(coco),
        home=tmp_path / "home",
        scratch=tmp_path / "scratch",
        model=str(tiny_model),
        warehouse_url=warehouse_url,
    )


def joined(settings: Settings, interval: Interval) -> int:
    """How many pairs all buckets of the interval have together."""
    return sum(
        interval_tasks.pair(settings, interval, group)["pairs"] for group in interval_tasks.bucket_groups(settings)
    )


def test_bad_shards_fail_alone_and_the_report_names_each(settings: Settings) -> None:
    failed = {}
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
    assert report["sides"]["laion_2b"].items() >= {"shards": 9, "pulled": 4, "failed": 5}.items()
    assert report["sides"]["laion_2b"]["rows"] == LARGE_ROWS + 100
    for path, said in SAID.items():
        [line] = [line for line in report["failures"] if path in line]
        assert said in line
        assert line in report["text"]
