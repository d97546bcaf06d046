"""Finds new pairs: those that are neither in the warehouse nor in an unfinished unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.pair_files import BATCH_ROWS, IsKnown, are_new, read_batches
from capsfusion_tasks.planning.tokens import DEFAULT, TokenEstimate
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

_FEWEST_ROWS = 50_000  # rows of the first batch if a limit takes only a few pairs


@dataclass(frozen=True)
class NewPairs:
    """Rows of a file of pairs that are new: row numbers and estimated tokens, [rows] int32 each.

    ``taken``: number of the file's other rows, which are fused already or in an unfinished unit.
    """

    path: str
    rows: np.ndarray
    tokens: np.ndarray
    taken: int = 0
    rows_in_file: int = 0


def new_pairs(
    storage: Storage,
    work: Interval | Replay,
    is_known: IsKnown,
    in_flight: Iterable[str],
    limit: int | None,
    rules: PairRules | None = None,
    estimate: TokenEstimate = DEFAULT,
) -> list[NewPairs]:
    """The work's new pairs, at most ``limit``, ordered by bucket and pair_id. Files after the limit are left out.

    ``in_flight`` are the unfinished units. Raises InputError if pairs were made with other rules than ``rules``.
    """
    flying = PairsInFlight(storage, in_flight)
    groups = [[path] for path in storage.files(layout.pairs_folder(work))]
    found, left = [], limit
    first_rows = BATCH_ROWS if limit is None else max(2 * limit, _FEWEST_ROWS)
    for batch in read_batches(storage, groups, estimate, rules, first_rows):
        for file, is_new in zip(batch, are_new(batch, flying, is_known), strict=True):
            new = np.flatnonzero(is_new).astype(np.int32)
            rows = new[:left]
            taken = len(is_new) - len(new)
            found.append(NewPairs(file.path, rows, file.tokens[rows], taken, rows_in_file=len(is_new)))
            if left is not None:
                left -= len(rows)
                if not left:
                    return found
    return found


def count_new_pairs(
    storage: Storage,
    within: Iterable[Interval],
    is_known: IsKnown,
    in_flight: Iterable[str],
    estimate: TokenEstimate = DEFAULT,
) -> tuple[int, int]:
    """Rows and estimated tokens of the intervals' new pairs. A pair that is in several intervals counts once."""
    by_bucket: dict[str, list[str]] = defaultdict(list)
    for interval in within:
        for path in storage.files(layout.pairs_folder(interval)):
            by_bucket[path.rpartition("/")[2]].append(path)
    flying = PairsInFlight(storage, in_flight)
    rows = tokens = 0
    for batch in read_batches(storage, by_bucket.values(), estimate):
        is_new = np.concatenate(are_new(batch, flying, is_known))
        new = np.flatnonzero(is_new)
        if len({file.bucket for file in batch}) < len(batch):
            # All files of a bucket are in one batch, and equal pairs are in the same bucket.
            ids = pa.concat_arrays([file.pair_ids for file in batch]).filter(pa.array(is_new))
            numbered = pa.table({"pair_id": ids, "row": new})
            new = numbered.group_by("pair_id").aggregate([("row", "min")])["row_min"].to_numpy()
        rows += len(new)
        tokens += int(np.concatenate([file.tokens for file in batch])[new].sum())
    return rows, tokens
