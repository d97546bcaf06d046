"""Measures how the time and the bytes that a daily run needs grow from day to day. Each day, shards of the same size
arrive. The run of the day pulls them (splits them into files by a hash of the URL) and pairs raw with synthetic
captions.

    python -m benchmarks.days [--days 30] [--rows 200000] [--shards 2] [--without-lookups] [--folder DIR]

Each day brings ROWS raw captions in SHARDS shards, and as many synthetic captions. A quarter of the raw captions have a
synthetic partner, which may arrive on any of the days. "Read" and "written" are the bytes that the process read and
wrote, including cached bytes and the bytes of compaction, which copies old rows to lookups (files sorted by a hash of
the URL). CPU seconds do not include the process that decodes shards. Fails if the number of pairs found is wrong.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.pairing import requested_mb
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing import compaction
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.buckets import split_shard
from capsfusion_tasks.pairing.database import JOINS_AT_ONCE
from capsfusion_tasks.pairing.join import pair_bucket
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.local_run import PULLS

START = datetime(2026, 1, 1, tzinfo=UTC)
PAIRED = 4  # one in PAIRED raw rows has a synthetic partner, and one in PAIRED synthetic rows has a raw partner
WORDS = 20_000
HOSTS = 3_000


@dataclass(frozen=True)
class Cost:
    seconds: float
    cpu_seconds: float
    read_mb: float
    written_mb: float

    @classmethod
    def since(cls, before: Cost) -> Cost:
        now = cls.now()
        return cls(*(getattr(now, name) - getattr(before, name) for name in cls.__dataclass_fields__))

    @classmethod
    def now(cls) -> Cost:
        return cls(time.perf_counter(), time.process_time(), *requested_mb())


@dataclass(frozen=True)
class Day:
    pull: Cost
    pair: Cost
    files: int
    stored_mb: float
    pairs: int


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rows", type=int, default=200_000, help="rows per day on each side (raw and synthetic)")
    parser.add_argument("--shards", type=int, default=2, help="shards per day on each side")
    parser.add_argument(
        "--without-lookups",
        action="store_true",
        help="do not sort old rows into lookups, so that each day reads all rows of earlier days",
    )
    parser.add_argument("--folder", type=Path, help="folder for shards and staging (default: a temporary folder)")
    args = parser.parse_args()
    if args.without_lookups:
        compaction._FEW_FILES = compaction._FEW_BYTES = 1 << 60
    # Delete unneeded lookups at once. In the pipeline, compaction keeps them for hours, because a join of another run
    # may still read them. Here, there is no other run.
    compaction._UNUSED = timedelta(0)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        days = run_days(Path(folder), args.days, args.rows, args.shards)
    expected = args.days * args.rows // PAIRED
    if (found := sum(day.pairs for day in days)) != expected:
        raise RuntimeError(f"pairing found {found} pairs in {args.days} days; expected {expected}, each once")
    print_days(days, args.rows)


def run_days(folder: Path, days: int, rows: int, shards: int) -> list[Day]:
    settings = load_settings(home=folder, scratch=folder / "scratch", laion2b=str(folder), laion_coco=str(folder))
    storage = Storage(settings.staging_uri)
    bucket_count(storage, settings, lambda: days * rows * 200)
    return [one_day(folder, day, days, rows, shards, storage, settings) for day in range(days)]


def one_day(folder: Path, day: int, days: int, rows: int, shards: int, storage: Storage, settings: Settings) -> Day:
    new = [shard for side in ("laion_2b", "laion_coco") for shard in written(folder, side, day, days, rows, shards)]
    interval = Interval(start=START + timedelta(days=day), end=START + timedelta(days=day + 1))

    def split(shard: Shard) -> None:
        with pa.OSFile(str(folder / shard.path)) as stream:
            split_shard(stream, shard, storage, settings)

    before = Cost.now()
    with ThreadPoolExecutor(PULLS) as pulls:
        list(pulls.map(split, new))
    pull, before = Cost.since(before), Cost.now()
    ids = {shard.shard_id for shard in new}
    with ThreadPoolExecutor(JOINS_AT_ONCE) as pool:
        buckets = range(bucket_count(storage, settings))
        joined = pool.map(lambda bucket: pair_bucket(bucket, ids, interval, storage, settings), buckets)
        pairs = sum(one.pairs for one in joined)
    pair = Cost.since(before)
    for shard in new:
        (folder / shard.path).unlink()
    files = [file for file in storage.tree() if file.path.startswith(("buckets/", "lookups/"))]
    return Day(pull, pair, len(files), sum(file.size for file in files) / 2**20, pairs)


def written(folder: Path, side: Side, day: int, days: int, rows: int, shards: int) -> list[Shard]:
    """Write the raw or synthetic shards of a day. A raw and a synthetic row with the same image number form a pair."""
    total = days * rows
    images = np.arange(day * rows, (day + 1) * rows)
    if side == "laion_coco":
        images = np.random.default_rng(0).permutation(total)[images]
        images = np.where(images % PAIRED == 0, images, images + total)
    made = []
    for number, part in enumerate(np.array_split(images, shards)):
        shard_id = f"{side}-{day:03d}-{number}"
        columns = {"URL": urls(part), "TEXT": sentences(part, 9, 1), "similarity": scores(part, 2)}
        columns |= {"punsafe": scores(part, 3), "pwatermark": scores(part, 4)}
        if side == "laion_coco":
            columns["top_caption"] = sentences(part, 9, 5)
        pq.write_table(pa.table(columns), folder / f"{shard_id}.parquet")
        made.append(
            Shard(
                shard_id=shard_id,
                side=side,
                source=str(folder),
                path=f"{shard_id}.parquet",
                etag="1",
                size_bytes=1,
                arrived_at=START,
            )
        )
    return made


def mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """Pseudorandom numbers, [rows] uint64, that depend only on ``numbers`` and ``seed`` (splitmix64)."""
    mix = numbers.astype(np.uint64) * np.uint64(64) + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mix = (mix ^ (mix >> np.uint64(shift))) * np.uint64(factor)
    return mix ^ (mix >> np.uint64(31))


def scores(images: np.ndarray, seed: int) -> pa.Array:
    return pa.array((mixed(images, seed) % np.uint64(450_000)) / 1e6)


def urls(images: np.ndarray) -> pa.Array:
    hosts = pa.array([f"https://img{n}.shop-{n * 7919 % 1000}.example/media/catalog/" for n in range(HOSTS)])
    host = hosts.take(pa.array((mixed(images, 6) % np.uint64(HOSTS)).astype(np.int64)))
    name, folder = (pa.array(mixed(images, seed) % np.uint64(10**n)).cast(pa.string()) for seed, n in ((7, 15), (8, 2)))
    return pc.binary_join_element_wise(host, folder, "/", name, ".jpg", "")


def sentences(images: np.ndarray, words: int, seed: int) -> pa.Array:
    """A text of ``words`` words for each image. Some words are much more frequent than others."""
    letters = np.random.default_rng(1).integers(97, 123, (WORDS, 12))
    vocabulary = pa.array(["".join(map(chr, row[: 2 + n % 11])) for n, row in enumerate(letters)])
    columns = []
    for place in range(words):
        share = (mixed(images, 16 + words * seed + place) >> np.uint64(11)) / 2.0**53
        columns.append(vocabulary.take(pa.array((WORDS * share**3).astype(np.int64))))
    return pc.binary_join_element_wise(*columns, " ")


def print_days(days: list[Day], rows: int) -> None:
    table = Table(title=f"{rows:,} new rows of each side a day, {os.cpu_count()} cores")
    for heading in ("day", "part", "s", "CPU s", "read MB", "written MB", "files", "stored MB"):
        table.add_column(heading, justify="left" if heading in ("day", "part") else "right")
    last = days[19:] or days[-1:]
    for title, group in {"2": days[1:2], "10": days[9:10], "20 to 30": last}.items():
        for part in ("pull", "pair") if group else ():
            costs = [getattr(day, part) for day in group]
            figures = [f"{fmean(getattr(cost, name) for cost in costs):.1f}" for name in Cost.__dataclass_fields__]
            stored = (str(group[-1].files), f"{group[-1].stored_mb:,.0f}") if part == "pair" else ("", "")
            table.add_row(title, part, *figures, *stored)
    Console(width=110).print(table)
    for name, what in {"read_mb": "bytes read", "seconds": "seconds", "cpu_seconds": "CPU seconds"}.items():
        second, late = (fmean(cost(day, name) for day in group) for group in (days[1:2], last))
        pair = fmean(getattr(day.pair, name) for day in last) / getattr(days[1].pair, name)
        Console().print(f"{what} of the last days relative to day 2: {late / second:.2f} total, {pair:.2f} for pairing")


def cost(day: Day, name: str) -> float:
    return float(getattr(day.pull, name) + getattr(day.pair, name))


if __name__ == "__main__":
    main()
