"""Rows come back from the scratch disk by bucket, in their order, to several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from capsfusion_tasks.pairing.spill import BucketSpill

ROWS = pa.schema([pa.field("n", pa.int64()), pa.field("text", pa.string())])
BUCKETS = 200


def table(first: int) -> pa.Table:
    numbers = range(first, first + 1000)
    return pa.table({"n": numbers, "text": [f"{n} " * (n % 7) if n % 5 else None for n in numbers]}, schema=ROWS)


def test_each_bucket_has_its_rows_in_order(tmp_path: Path) -> None:
    spill, tables = BucketSpill(tmp_path, ROWS), [table(first) for first in (0, 1000, 2000)]
    numbers = [np.array(each["n"]) * 7919 % (BUCKETS + 1) - 1 for each in tables]
    for each, buckets in zip(tables, numbers, strict=True):
        spill.add(each, buckets)
    spill.add(table(0).slice(0, 0), np.array([], int))
    assert spill.buckets() == list(range(BUCKETS))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda bucket: pa.concat_tables(spill.rows(bucket)), spill.buckets()))
    everything, buckets = pa.concat_tables(tables), np.concatenate(numbers)
    for bucket, its in enumerate(found):
        assert its.equals(everything.filter(pa.array(buckets == bucket)).combine_chunks()), bucket
        assert spill.counts[bucket] == its.num_rows
