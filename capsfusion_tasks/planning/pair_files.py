"""Reads pair files in batches, and finds the new pairs of a batch.

An interval has one pair file per bucket. So has a replay, which fuses the pairs of rejected captions again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.image_results import BucketResults, ImageResults
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.tokens import TokenEstimate
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.schemas import FOUND_PAIRS, with_columns_of
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage

# Number of pairs per batch. It is large, because the ids of all unfinished units are read again for each batch. A pair
# takes 20 bytes in memory.
BATCH_ROWS = 4_000_000

_GONE = pa.schema([FOUND_PAIRS.field("gone")])

# A function that gets pair_ids, [rows] binary(16), and returns for each id whether its pair is in the warehouse. The
# function returns None if all pairs count as new.
IsKnown = Callable[[pa.FixedSizeBinaryArray], pa.BooleanArray | None]


@dataclass(frozen=True)
class PairFile:
    """The pairs of a file. ``tokens``: estimates for prompt and caption, [rows] int32.

    ``gone``: whether the pair's image is gone, [rows] bool.
    """

    path: str
    pair_ids: pa.FixedSizeBinaryArray
    tokens: np.ndarray
    gone: np.ndarray

    @property
    def bucket(self) -> str:
        return bucket_of(self.path)


def read_batches(
    storage: Storage,
    groups: Iterable[list[str]],
    estimate: TokenEstimate,
    rules: PairRules | None = None,
    first_rows: int = BATCH_ROWS,
    images: ImageResults | None = None,
) -> Iterator[list[PairFile]]:
    """Read files of pairs in batches of about ``BATCH_ROWS`` rows. The first batch has about ``first_rows`` rows.

    ``groups``: lists of paths; the files of a group belong to the same bucket. A batch contains whole groups. Without
    ``images``, all images count as present. Raises InputError if pairs were made with other rules than ``rules``.
    """

    def read(paths: list[str]) -> list[PairFile]:
        results = images.of_bucket(bucket_of(paths[0])) if images else None
        return [_read(storage, path, estimate, rules, results) for path in paths]

    batch: list[PairFile] = []
    rows, most = 0, min(first_rows, BATCH_ROWS)
    for files in read_ahead(read, groups):
        batch += files
        rows += sum(len(file.pair_ids) for file in files)
        if rows >= most:
            yield batch
            batch, rows, most = [], 0, min(4 * most, BATCH_ROWS)
    if batch:
        yield batch


def _read(
    storage: Storage, path: str, estimate: TokenEstimate, rules: PairRules | None, results: BucketResults | None
) -> PairFile:
    columns = ["pair_id", "laion_2b", "laion_coco", *(["image_url", "gone"] if results else [])]
    pairs = storage.read_table(path, columns=columns)
    if rules is not None:
        _require_rules(storage.path(path), pairs.schema, rules)
    pairs = with_columns_of(_GONE, pairs)  # files that an earlier version wrote lack ``gone``
    gone = results.are_gone(pairs) if results else np.zeros(pairs.num_rows, bool)
    return PairFile(path, pairs["pair_id"].combine_chunks(), estimate.of(pairs), gone)


def _require_rules(where: str, schema: pa.Schema, rules: PairRules) -> None:
    made_with = PairRules.recorded({key.decode(): value.decode() for key, value in (schema.metadata or {}).items()})
    if made_with is not None and made_with != rules:
        raise InputError(
            f"the pairs in {where} were made with {made_with.against(rules)}: run their interval again, starting with"
            " the pull task"
        )


def are_new(batch: list[PairFile], in_flight: PairsInFlight, is_known: IsKnown) -> list[np.ndarray]:
    """For each file of ``batch``, whether its pairs are new: neither in an unfinished unit nor in the warehouse."""
    pair_ids = pa.concat_arrays([file.pair_ids for file in batch])
    # Read units before the warehouse. So a unit that is loaded into the warehouse between the two reads is found in
    # both places. In the other order, it would be missed.
    is_new = ~in_flight.contain(pair_ids, {file.bucket for file in batch})
    known = is_known(pair_ids.filter(pa.array(is_new)))
    if known is not None:
        is_new[is_new] = ~known.to_numpy(zero_copy_only=False)
    ends = np.cumsum([len(file.pair_ids) for file in batch])
    return np.split(is_new, ends[:-1])


def digest_of(pair_ids: pa.FixedSizeBinaryArray) -> bytes:
    """A digest of the ids and of their order. It shows whether a file that is read again has the same pairs."""
    first, width = pair_ids.offset, pair_ids.type.byte_width
    ids = memoryview(pair_ids.buffers()[1] or b"")[width * first : width * (first + len(pair_ids))]
    return hashlib.blake2b(ids, digest_size=16).digest()


def bucket_of(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")
