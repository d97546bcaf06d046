"""Writes sample shards that arrive over several days, in LAION's schemas. Also writes a report of the pairs to find.

The expected results come from the code that makes the rows (``edge_cases.py``), not from the pipeline.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capsfusion_tasks.demo.copies import copies_of
from capsfusion_tasks.demo.edge_cases import CASES, plain
from capsfusion_tasks.demo.releases import FILE_NAME, RELEASES, shard_table
from capsfusion_tasks.demo.sample_report import (
    EXPECTED,
    FOLDER,
    REASONS,
    SIDES,
    DayCounts,
    SampleParameters,
    SampleReport,
    SideCounts,
    read_report,
)
from capsfusion_tasks.demo.sample_rows import Pair, Row, RowMaker
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Side
from capsfusion_tasks.staging.storage import Storage


@dataclass(frozen=True)
class SampleShard:
    path: str  # relative to the sample's folder
    side: Side
    day: int
    arrives: datetime
    release: pa.Schema
    rows: list[Row]


@dataclass(frozen=True)
class Sample:
    """A sample in memory: one copy of its shards and pairs, and the report over all copies."""

    shards: list[SampleShard]
    pairs: list[Pair]
    report: SampleReport


def write_sample_data(
    folder: str | Path,
    *,
    rows_per_day: int = 250,
    days: int = 3,
    first_day: date = date(2026, 11, 10),
    shards_per_side_per_day: int = 2,
    seed: int = 0,
    copies: int = 1,
    unmatched: int = 0,
) -> SampleReport:
    """Write ``folder``/laion-2b, ``folder``/laion-coco and ``folder``/EXPECTED.json, the report.

    A run finds ``rows_per_day`` pairs on each day. For 100 pairs, there are also about 38 rows that make no pair.
    ``copies``: how many times everything is written, each time with different URLs. ``unmatched``: for each LAION-2B
    row, add this many LAION-2B rows whose images LAION-COCO lacks. (The real LAION-COCO lacks three of four images of
    the real LAION-2B.)

    A shard arrives at the modification time of its file, which is within the shard's day (UTC). If ``folder`` already
    has this sample, nothing is written. If an earlier call was interrupted, this call writes the rest. Raises
    InputError for any other folder that is not empty.
    """
    parameters = SampleParameters(
        rows_per_day=rows_per_day,
        days=days,
        first_day=first_day,
        shards_per_side_per_day=shards_per_side_per_day,
        seed=seed,
        copies=copies,
        unmatched=unmatched,
    )
    leasts = {"rows_per_day": 1, "days": 1, "shards_per_side_per_day": 1, "copies": 1, "unmatched": 0}
    for name, least in leasts.items():
        if getattr(parameters, name) < least:
            raise InputError(f"sample data: {name} is {getattr(parameters, name)}; it must be at least {least}")
    root = Path(folder)
    known = read_report(root, parameters)
    if known and all(_arrived(root / path) == when for path, when in known.files.items()):
        return known

    sample = make_sample(parameters)
    storage = Storage(str(root))
    # Write the report first, because a later call reads the parameters of an unfinished sample from it.
    with storage.publish(EXPECTED) as stream:
        stream.write(sample.report.to_json().encode())
    for number, shard in enumerate(sample.shards):
        if not storage.exists(shard.path):
            _write_shard(storage, shard, parameters.copies_on(shard.side), random.Random(f"{seed} shard {number}"))
        when = int(shard.arrives.timestamp())
        os.utime(root / shard.path, (when, when))
    return sample.report


def make_sample(parameters: SampleParameters) -> Sample:
    """Make the sample of ``parameters`` in memory."""
    rng = random.Random(parameters.seed)
    rows, pairs, cases = _make_cases(rng, parameters)
    shards = list(_deal(rng, rows, parameters))
    days = [
        DayCounts(
            day=parameters.first_day + timedelta(days=day),
            laion_2b=_side_counts(shards, "laion_2b", day, parameters),
            laion_coco=_side_counts(shards, "laion_coco", day, parameters),
            pairs=sum(pair.day == day for pair in pairs) * parameters.copies,
        )
        for day in range(parameters.days)
    ]
    report = SampleReport(
        parameters=parameters,
        days=days,
        pairs=len(pairs) * parameters.copies,
        cases=dict(cases),
        files={shard.path: shard.arrives for shard in shards},
    )
    return Sample(shards, pairs, report)


def _make_cases(rng: random.Random, parameters: SampleParameters) -> tuple[list[Row], list[Pair], Counter[str]]:
    """All rows, their pairs, and how often each case occurs.

    Each day has its share of the edge cases, then plain pairs until the day has enough pairs. A case that is too rare
    for every day occurs once in the sample. Such cases are spread over the days.
    """
    make = RowMaker(rng, last_day=parameters.days - 1)
    rows: list[Row] = []
    pairs: list[Pair] = []
    cases: Counter[str] = Counter()
    for day in range(parameters.days):
        kinds = [
            kind
            for number, (kind, share) in enumerate(CASES.items())
            for _ in range(max(round(share * parameters.rows_per_day), number % parameters.days == day))
        ]
        made = [kind(make, day) for kind in kinds]
        found = sum(pair.day == day for pair in pairs) + sum(pair.day == day for case in made for pair in case.pairs)
        kinds += [plain] * (parameters.rows_per_day - found)
        made += [plain(make, day) for _ in range(parameters.rows_per_day - found)]
        cases.update(kind.__name__ for kind in kinds)
        rows += [row for case in made for row in case.rows]
        pairs += [pair for case in made for pair in case.pairs]
    return rows, pairs, cases


def _deal(rng: random.Random, rows: list[Row], parameters: SampleParameters) -> Iterator[SampleShard]:
    """Distribute the rows of each side (LAION-2B or LAION-COCO) and day over the day's shards.

    The shard is random, and does not depend on the shard of the matching row, unless ``Row.shard`` sets it.
    """
    count = parameters.shards_per_side_per_day
    for side in SIDES:
        for day in range(parameters.days):
            dealt: list[list[Row]] = [[] for _ in range(count)]
            for row in rows:
                if (row.side, row.day) == (side, day):
                    dealt[rng.randrange(count) if row.shard is None else row.shard % count].append(row)
            for place, shard_rows in enumerate(dealt):
                rng.shuffle(shard_rows)
                number = day * count + place
                yield SampleShard(
                    path=f"{FOLDER[side]}/{FILE_NAME[side].format(number)}",
                    side=side,
                    day=day,
                    arrives=_arrival(parameters.first_day + timedelta(days=day), place, count),
                    release=RELEASES[side][number % len(RELEASES[side])],
                    rows=shard_rows,
                )


def _arrival(day: date, place: int, count: int) -> datetime:
    """The arrival time of a day's shard with index ``place``, from 0. ``count``: number of shards of the day.

    The first shard arrives in the day's first second, the last shard in the day's last second. A single shard arrives
    at noon.
    """
    seconds = 12 * 3600 if count == 1 else place * (24 * 3600 - 1) // (count - 1)
    return datetime.combine(day, time(), UTC) + timedelta(seconds=seconds)


def _side_counts(shards: list[SampleShard], side: Side, day: int, parameters: SampleParameters) -> SideCounts:
    mine = [shard for shard in shards if (shard.side, shard.day) == (side, day)]
    dropped = Counter(row.dropped for shard in mine for row in shard.rows)
    copies = parameters.copies_on(side)
    return SideCounts(
        shards=len(mine),
        rows=sum(len(shard.rows) for shard in mine) * copies,
        dropped={reason: dropped[reason] * copies for reason in REASONS},
    )


def _write_shard(storage: Storage, shard: SampleShard, copies: int, rng: random.Random) -> None:
    table = shard_table(shard.rows, shard.release, rng)
    # Rows per row group of the Parquet file. If each row is written once, this number is so small that even a small
    # shard has several row groups.
    rows = max(1, table.num_rows // 3) if copies == 1 else None
    with storage.publish(shard.path) as stream, pq.ParquetWriter(stream, table.schema, compression="snappy") as writer:
        for part in copies_of(table, range(copies)):
            writer.write_table(part, row_group_size=rows)


def _arrived(path: Path) -> datetime | None:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC) if path.is_file() else None
