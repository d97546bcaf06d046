"""Measures bucketing, joining and planning of sample shards. The baseline is one DuckDB statement that joins all files.

    python -m benchmarks.pairing [--raw-rows 1 4 16] [--repeat 3] [--folder DIR]

``--raw-rows`` are numbers of LAION-2B rows, in millions; LAION-COCO has a quarter as many rows. For each number, shards
are written once and kept in DIR. Each repetition runs each method once, in its own process.

The DuckDB statement filters, joins and deduplicates the files, and writes the pairs. It needs raw and synthetic rows in
memory, and must read all of them again when the next shard arrives. The pipeline first writes each row to one of many
bucket files, chosen by a hash of the row's URL (bucketing), and never reads the shard again. Then it joins the raw and
synthetic rows of each bucket. Last, it cuts the pairs into batches (planning). As in a usual run, it splits two shards
and joins three buckets at a time. "Read" and "written" are the bytes that the process read and wrote, including cached
bytes.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.buckets import split_shard
from capsfusion_tasks.pairing.database import JOINS_AT_ONCE
from capsfusion_tasks.pairing.join import pair_bucket
from capsfusion_tasks.planning import unit_files
from capsfusion_tasks.planning.new_pairs import new_pairs
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.shards.listing import source_bytes
from capsfusion_tasks.shards.sources import configured_sources, opened
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks.local_run import PULLS

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
PAIRS_A_COPY = 20_000
RAW_ROWS_A_COPY = 97_000  # number of LAION-2B rows in one copy of the sample (the shards contain many copies)
UNMATCHED = 3  # number of LAION-2B rows without a synthetic caption, for each row that has one
SHARDS = 4
TOKENS_PER_SECOND = 15_000  # high, so that units are large and one plan contains all pairs

# A macro that returns whether a text is blank. It uses a regular expression, because DuckDB's trim is slower, and does
# not remove tabs and newlines.
BLANK = r"create macro blank(value) as not coalesce(regexp_matches(value, '[^\s\p{Z}]'), false)"

# This statement finds the same pairs as the pipeline. If several rows have the same pair, it keeps the same row, too.
STATEMENT = """
copy (
    with raw as (
        select url, coalesce(caption, text) as alt, similarity, punsafe, pwatermark, filename, file_row_number
        from read_parquet('{raw}', union_by_name = true, filename = true, file_row_number = true)
        where not blank(url) and not blank(alt) and coalesce(punsafe, 0) < 0.5 and coalesce(pwatermark, 0) < 0.8
    ),
    coco as (
        select url, text, top_caption, similarity, punsafe, pwatermark, filename, file_row_number
        from read_parquet('{coco}', union_by_name = true, filename = true, file_row_number = true)
        where not blank(url) and not blank(text) and not blank(top_caption)
            and coalesce(punsafe, 0) < 0.5 and coalesce(pwatermark, 0) < 0.8
    )
    select
        raw.url, raw.alt, coco.top_caption, coalesce(raw.similarity, coco.similarity) as similarity,
        greatest(raw.punsafe, coco.punsafe) as punsafe, greatest(raw.pwatermark, coco.pwatermark) as pwatermark,
        raw.filename as raw_file, raw.file_row_number as raw_row,
        coco.filename as coco_file, coco.file_row_number as coco_row
    from raw join coco on raw.url = coco.url and raw.alt = coco.text
    qualify row_number() over (
        partition by raw.url, raw.alt, coco.top_caption
        order by raw.similarity desc nulls last, raw_file, raw_row, coco.similarity desc nulls last, coco_file, coco_row
    ) = 1
) to '{out}' (format parquet, compression zstd)
"""


@dataclass(frozen=True)
class Cost:
    pairs: int | None
    seconds: float
    peak_mb: float
    read_mb: float
    written_mb: float


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-rows", type=float, nargs="+", default=[1, 4, 16], help="millions of LAION-2B rows")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each method; medians are printed")
    parser.add_argument("--folder", type=Path, help="folder that keeps shards for later calls (default: temporary)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for millions in args.raw_rows:
            print_costs(args.folder or Path(temporary), millions, args.repeat)


def print_costs(folder: Path, millions: float, repeat: int) -> None:
    copies = max(1, round(millions * 1e6 / RAW_ROWS_A_COPY))
    sample = folder / f"raw-{millions:g}m"
    report = write_sample_data(
        sample,
        rows_per_day=PAIRS_A_COPY,
        days=1,
        shards_per_side_per_day=SHARDS,
        copies=copies,
        unmatched=UNMATCHED,
    )
    rows = report.days[0].laion_2b.rows + report.days[0].laion_coco.rows
    turns = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            turns.append(
                {method.__name__: measured(method, sample, Path(work)) for method in (statement, bucket, join, plan)}
            )
    if wrong := {turn[name].pairs for turn in turns for name in ("statement", "join", "plan")} - {report.pairs}:
        raise RuntimeError(f"each method must find the {report.pairs} pairs of {sample}, but some found {wrong}")
    table = Table(title=f"{rows:,} rows, {report.pairs:,} pairs, {os.cpu_count()} cores, median of {repeat} turns")
    for heading in ("method", "s", "rows/s", "times DuckDB", "peak MB", "read MB", "written MB"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    base = [turn["statement"].seconds for turn in turns]
    for title, names in {
        "DuckDB, one statement": ["statement"],
        "bucketing": ["bucket"],
        "join": ["join"],
        "bucketing + join": ["bucket", "join"],
        "planning": ["plan"],
    }.items():
        costs = [[turn[name] for name in names] for turn in turns]
        seconds = [sum(cost.seconds for cost in turn) for turn in costs]
        table.add_row(
            title,
            f"{statistics.median(seconds):.1f}",
            f"{rows / statistics.median(seconds):,.0f}",
            f"{statistics.median(mine / its for mine, its in zip(seconds, base, strict=True)):.2f}",
            f"{statistics.median(max(cost.peak_mb for cost in turn) for turn in costs):,.0f}",
            f"{sum(cost.read_mb for cost in costs[0]):,.0f}",
            f"{sum(cost.written_mb for cost in costs[0]):,.0f}",
        )
    Console(width=110).print(table)


def measured(method: Callable[[Path, Path], int | None], sample: Path, work: Path) -> Cost:
    """Run ``method`` in its own process. Measure its time, memory, and bytes read and written."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, method, sample, work).result()


def _measure(method: Callable[[Path, Path], int | None], sample: Path, work: Path) -> Cost:
    before, start = requested_mb(), time.perf_counter()
    pairs = method(sample, work)
    seconds = time.perf_counter() - start
    read, written = (after - at_first for after, at_first in zip(requested_mb(), before, strict=True))
    return Cost(pairs, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, read, written)


def requested_mb() -> tuple[float, float]:
    """MB that this process has read and written."""
    lines = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    found = {name: int(value) / 2**20 for name, value in lines}
    return found["rchar"], found["wchar"]


def statement(sample: Path, work: Path) -> int:
    raw, coco = (f"{sample}/{folder}/*.parquet" for folder in FOLDER.values())
    out = work / "duckdb.parquet"
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = false; set enable_progress_bar = false")
        connection.execute(BLANK)
        connection.execute(STATEMENT.format(raw=raw, coco=coco, out=out))
    return int(pq.read_metadata(out).num_rows)


def bucket(sample: Path, work: Path) -> None:
    settings, storage, shards = _prepared(sample, work)

    def split(shard: Shard) -> None:
        with opened(shard, settings) as stream:
            split_shard(stream, shard, storage, settings)

    with ThreadPoolExecutor(PULLS) as pulls:
        list(pulls.map(split, shards))


def join(sample: Path, work: Path) -> int:
    settings, storage, shards = _prepared(sample, work)
    new = {shard.shard_id for shard in shards}
    with ThreadPoolExecutor(JOINS_AT_ONCE) as pool:
        buckets = range(bucket_count(storage, settings))
        joined = pool.map(lambda bucket: pair_bucket(bucket, new, DAY, storage, settings), buckets)
        return sum(one.pairs for one in joined)


def plan(sample: Path, work: Path) -> int:
    _, storage, _ = _prepared(sample, work)
    pairs = new_pairs(storage, DAY, lambda ids: pa.repeat(False, len(ids)), in_flight=[], limit=None)
    size = unit_files.choose_unit_tokens(sum(int(part.tokens.sum()) for part in pairs), TOKENS_PER_SECOND)
    return sum(unit.rows for unit in unit_files.cut_units(storage, pairs, DAY, "bench", size, serial=0))


def _prepared(sample: Path, work: Path) -> tuple[Settings, Storage, list[Shard]]:
    raw, coco = (str(sample / folder) for folder in FOLDER.values())
    settings = load_settings(laion2b=raw, laion_coco=coco, home=work, scratch=work / "scratch")
    storage = Storage(settings.staging_uri)
    sources = configured_sources(settings)
    bucket_count(storage, settings, lambda: source_bytes(sources))
    return settings, storage, discovery.discover(sources, DAY, storage)


if __name__ == "__main__":
    main()
