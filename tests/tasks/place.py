"""Small sources that tests may change, and functions that return the pairs that runs find there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.opened import interval_tasks

DAYS = [
    Interval(start=datetime(2026, 11, day, tzinfo=UTC), end=datetime(2026, 11, day + 1, tzinfo=UTC)) for day in (10, 11)
]
DAY = DAYS[0]
BOTH = Interval(start=DAYS[0].start, end=DAYS[1].end)


def write(path: Path, numbers: range, day: Interval = DAY, *, caption: str | None = None, text: str = "kite") -> None:
    """Write a shard with one image per number n. punsafe and pwatermark are n / 10, but null for the last image."""
    scores = [n / 10 for n in numbers[:-1]] + [None]
    table = pa.table(
        {
            "URL": [f"http://img.example.org/{n}.jpg" for n in numbers],
            # Only odd numbers use ``text``. So if the two sides get different ``text``, every second image has no pair.
            "TEXT": [f"{text if n % 2 else 'kite'} {n} by Tariq Boone" for n in numbers],
            "punsafe": pa.array(scores, pa.float64()),
            "pwatermark": pa.array(scores, pa.float64()),
        }
    )
    if caption:
        table = table.append_column("top_caption", pa.array([caption] * len(numbers)))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    os.utime(path, (day.start.timestamp(), day.start.timestamp()))


@dataclass
class Place:
    folder: Path
    warehouse_url: str

    def settings(self, home: str = "home", **changes: Any) -> Settings:
        values = {"laion2b": "raw", "laion_coco": "coco", "buckets": 2, **changes}
        for side in ("laion2b", "laion_coco"):
            values[side] = values[side] if values[side] == "none" else str(self.folder / values[side])
        return load_settings(
            home=self.folder / home, warehouse_url=self.warehouse_url, scratch=self.folder / "scratch", **values
        )

    def two(self, case: dict[str, tuple[Any, Any]]) -> tuple[Settings, Settings]:
        before, after = ({name: values[n] for name, values in case.items()} for n in (0, 1))
        return self.settings(**before), self.settings(**after)

    def fresh(self, settings: Settings, interval: Interval = DAY) -> set[bytes]:
        """Pair the interval in a new, empty home. Returns the pair_ids."""
        anew = settings.model_copy(update={"home": self.folder / "fresh"})
        shutil.rmtree(anew.home, ignore_errors=True)
        pair(anew, interval)
        return paired(anew, interval)


def pair(settings: Settings, interval: Interval = DAY) -> None:
    for shard in interval_tasks.discover(settings, interval):
        interval_tasks.pull(settings, shard)
    for group in interval_tasks.bucket_groups(settings):
        interval_tasks.pair(settings, interval, group)


def paired(settings: Settings, interval: Interval = DAY) -> set[bytes]:
    storage = Storage(settings.staging_uri)
    return ids(storage, storage.files(layout.pairs_folder(interval)))


def in_units(settings: Settings, units: list[Unit]) -> set[bytes]:
    return ids(Storage(settings.staging_uri), [layout.unit_pairs(unit.unit_id) for unit in units])


def ids(storage: Storage, paths: list[str]) -> set[bytes]:
    return {pair_id for path in paths for pair_id in storage.read_table(path, ["pair_id"])["pair_id"].to_pylist()}
