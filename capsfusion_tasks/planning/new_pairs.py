"""Finds new pairs, which are neither in the warehouse nor in an unfinished work unit (the pairs of one GPU task)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.image_results import ImageResults
from capsfusion_tasks.planning.estimate import NOTHING, Work
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.pair_files import BATCH_ROWS, IsKnown, are_new, digest_of, read_batches
from capsfusion_tasks.planning.tokens import DEFAULT, TokenEstimate
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

_FEWEST_ROWS = 50_000  # minimum rows of the first batch; small, so that a run with a small limit reads little


@dataclass(frozen=True)
class NewPairs:
    """The new pairs in a file of pairs: their row numbers and their estimated tokens, [rows] int32 each.

    ``digest``: a digest of all ids in the file (``digest_of``). The row numbers are right only while the file has this
    digest. ``taken``: number of the file's rows that are fused already or in an unfinished unit. ``gone``: number and
    tokens of the new rows that are left out, because their images could not be downloaded. ``over_limit``: number of
    the file's new rows that exceed the limit of the run.
    """

    path: str
    rows: np.ndarray
    tokens: np.ndarray
    digest: bytes
    taken: int = 0
    rows_in_file: int = 0
    gone: Work = NOTHING
    over_limit: int = 0


def new_pairs(
    storage: Storage,
    work: Interval | Replay,
    is_known: IsKnown,
    in_flight: Iterable[str],
    limit: int | None,
    rules: PairRules | None = None,
    estimate: TokenEstimate = DEFAULT,
    images: ImageResults | None = None,
) -> list[NewPairs]:
    """The new pairs of an interval or a replay, at most ``limit``, ordered by bucket and pair_id.

    Stops reading files at the first pair that exceeds ``limit``. Leaves out pairs of the unfinished units
    ``in_flight``. If ``images`` is given, counts pairs whose images are gone and leaves them out. Raises InputError if
    pairs were made with other rules than ``rules``.
    """
    flying = PairsInFlight(storage, in_flight)
    groups = [[path] for path in storage.files(layout.pairs_folder(work))]
    found, left = [], limit
    first_rows = BATCH_ROWS if limit is None else max(2 * limit, _FEWEST_ROWS)
    for batch in read_batches(storage, groups, estimate, rules, first_rows, images):
        for file, is_new in zip(batch, are_new(batch, flying, is_known), strict=True):
            wanted = np.flatnonzero(is_new & ~file.gone).astype(np.int32)
            rows = wanted[:left]
            over = len(wanted) - len(rows)
            taken, gone = int((~is_new).sum()), is_new & file.gone
            left_out = Work(int(gone.sum()), int(file.tokens[gone].sum()))
            digest = digest_of(file.pair_ids)
            found.append(NewPairs(file.path, rows, file.tokens[rows], digest, taken, len(is_new), left_out, over))
            if over:
                return found
            if left is not None:
                left -= len(rows)
    return found


def count_new_pairs(
    storage: Storage,
    within: Iterable[Interval],
    is_known: IsKnown,
    in_flight: Iterable[str],
    estimate: TokenEstimate = DEFAULT,
    images: ImageResults | None = None,
) -> tuple[Work, Work]:
    """Count the intervals' new pairs: pairs to fuse, and pairs whose images are gone according to ``images``.

    A pair that is in several intervals counts once: as a pair to fuse, unless its image counts as gone in every one of
    these intervals.
    """
    by_bucket: dict[str, list[str]] = defaultdict(list)
    for interval in within:
        for path in storage.files(layout.pairs_folder(interval)):
            by_bucket[path.rpartition("/")[2]].append(path)
    flying = PairsInFlight(storage, in_flight)
    to_fuse = left_out = NOTHING
    for batch in read_batches(storage, by_bucket.values(), estimate, images=images):
        is_new = np.concatenate(are_new(batch, flying, is_known))
        gone, tokens = (np.concatenate([getattr(file, name) for file in batch]) for name in ("gone", "tokens"))
        new = np.flatnonzero(is_new)
        if len({file.bucket for file in batch}) < len(batch):
            # Several intervals may have the same pair. Move rows whose images exist to the front. Then keep only the
            # first row of each pair. All rows of a pair are in this batch, because a batch has all files of a bucket.
            new = new[np.argsort(gone[new], kind="stable")]
            ids = pa.concat_arrays([file.pair_ids for file in batch]).take(pa.array(new))
            numbered = pa.table({"pair_id": ids, "place": np.arange(len(new))})
            first = numbered.group_by("pair_id").aggregate([("place", "min")])["place_min"].to_numpy()
            new = new[first]
        living, dead = new[~gone[new]], new[gone[new]]
        to_fuse += Work(len(living), int(tokens[living].sum()))
        left_out += Work(len(dead), int(tokens[dead].sum()))
    return to_fuse, left_out
