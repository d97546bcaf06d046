"""Pairs that were paired once and are to be fused again, laid out as pairing lays out new ones: by bucket."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.pairing.buckets import bucket_numbers
from capsfusion_tasks.pairing.spill import BucketSpill
from capsfusion_tasks.schemas import PAIRS, Replay
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout, scratch
from capsfusion_tasks.staging.storage import Storage


def split_pairs(tables: Iterable[pa.Table], replay: Replay, storage: Storage, settings: Settings, buckets: int) -> int:
    """Write ``tables`` (``schemas.PAIRS``) to ``replays/<replay>/pairs/<bucket>.parquet``; returns their rows.

    What an earlier try wrote there goes. Rows of a bucket keep their order. A URL with U+FFFD in it may have had a NUL
    there, which PostgreSQL cannot store: its pair is in the file of no bucket.
    """
    target = layout.pairs_folder(replay)
    for path in storage.files(target):
        storage.delete(path)
    rows = 0
    with scratch.temporary_folder(settings.scratch_folder, "replay-", "the captions to replay") as folder:
        spill = BucketSpill(folder, PAIRS)
        for table in tables:
            changed = pc.match_substring(table["image_url"], "\ufffd").to_numpy()
            spill.add(table, np.where(changed, buckets, bucket_numbers(table["image_url"], buckets)))
            rows += table.num_rows
        for bucket in spill.buckets():
            name = f"{bucket:05d}" if bucket < buckets else layout.ANY_BUCKET
            storage.write_tables(f"{target}/{name}.parquet", PAIRS, spill.rows(bucket))
    return rows
