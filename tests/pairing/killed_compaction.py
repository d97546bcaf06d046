"""A process that compacts buckets and kills itself in the middle, as if its machine failed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from capsfusion_tasks.pairing import bucket_side, compaction, lookups
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.staging.storage import Storage
from tests.pairing.test_join import Area

POINTS: dict[str, tuple[Any, str]] = {
    "the rows": (Storage, "publish"),
    "the mark": (lookups.Lookup, "publish"),
    "merging": (compaction, "_merged"),
    "deleting": (Storage, "delete"),
}


def compact_and_die(folder: Path, buckets: int, point: str, call: int) -> None:
    """Compact all buckets. Kills this process just before the ``call``-th call of the function named by ``point``."""
    where, what = POINTS[point]
    whole, left = getattr(where, what), call

    def dies(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **named)

    setattr(where, what, dies)
    compaction._FEW_FILES, compaction._FEW_BYTES, compaction._MERGED = 1, 0, 2
    compaction._UNUSED = -compaction._UNUSED
    area = Area(folder, buckets)
    rules = PullRules.of(area.settings)
    for bucket in range(buckets):
        for side in PAIRED:
            compaction.compact(bucket_side.BucketSide.of(area.storage, side, bucket, set(), rules), 1)
