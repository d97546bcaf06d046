"""Writes a replay's pairs to one file per bucket, as a join does.

A replay fuses the pairs of rejected captions again.
"""

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
    """Write ``tables`` (``schemas.PAIRS``) to ``replays/<replay>/pairs/<bucket>.parquet``. Returns the number of rows.

    Deletes the files of an earlier try. Rows of a bucket keep their order. The warehouse stores NUL in a URL as U+FFFD,
    so the bucket of a URL with U+FFFD is unknown: such pairs go to the file ``any.parquet``.
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
