"""Generates any number of validated rows for benchmarks of the warehouse, by recombining a few thousand captions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.schemas import VALIDATED

SHARDS = 32  # number of raw shards that rows come from, and number of synthetic shards
REJECTED = 0.1
RARE_REASON, RARE_FLAG = 1000, 5000  # one in 1000 rejected rows has a rare reason; one in 5000 rows has a rare flag
RARE_WORDS = 300_000  # number of rare words: so many that the vocabulary grows with the table, as with real captions


class UnitMaker:
    """Generates units (batches of rows) from ``captions``, which are tuples (raw, synthetic, fused).

    A generated caption is the first half of one caption, a rare word, and the second half of another caption. So all
    texts differ, and words are as frequent as in ``captions``. Pair ids are random bytes, because real pair ids are
    hash digests. URLs have random digits.
    """

    def __init__(self, captions: Sequence[tuple[str, ...]], seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._raw, self._synthetic, fused = (pa.array(column) for column in zip(*captions, strict=True))
        words = [text.split() for text in fused.to_pylist()]
        self._first = pa.array([" ".join(line[: len(line) // 2]) for line in words])
        self._second = pa.array([" ".join(line[len(line) // 2 :]) for line in words])
        self._shards = {side: self._hex(SHARDS) for side in ("laion_2b", "laion_coco")}

    def unit(self, rows: int) -> pa.Table:
        """``rows`` rows with the schema ``schemas.VALIDATED``, a tenth of them rejected."""
        rng, some = self._rng, partial(self._some, rows)
        rejected = rng.random(rows) < REJECTED
        columns: dict[str, pa.Array] = {
            "pair_id": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(16), rows, [None, pa.py_buffer(rng.bytes(16 * rows))]
            ),
            "image_url": _join(
                "https://cdn", _text(rng.integers(0, 5000, rows)), ".example.com/", self._hex(rows), ".jpg"
            ),
            "laion_2b": some(self._raw),
            "laion_coco": some(self._synthetic),
            "capsfusion": _join(
                some(self._first), " w", _text(rng.integers(0, RARE_WORDS, rows)), " ", some(self._second)
            ),
            "laion_hash": pa.array(rng.integers(-(2**63), 2**63, rows)),
            "finish_reason": pa.repeat("stop", rows),
            "license": pa.nulls(rows, pa.string()),  # no licence, as in most rows of LAION
            "prompt_tokens": pa.array(rng.integers(130, 200, rows, np.int32)),
            "caption_tokens": pa.array(rng.integers(15, 81, rows, np.int32)),
            "caption_words": pa.array(rng.integers(8, 50, rows, np.int32)),
        }
        for side, shards in self._shards.items():
            columns[f"{side}_shard"] = some(shards)
            columns[f"{side}_row"] = pa.array(rng.integers(0, 18_000_000, rows))
        reason, flag = (rng.integers(0, one_in, rows) == 0 for one_in in (RARE_REASON, RARE_FLAG))
        columns["reasons"] = _lists(rejected, np.where(reason, "failed", "truncated"))
        columns["flags"] = _lists(flag | (rng.random(rows) < 0.2), np.where(flag, "unrelated_sources", "mismatch"))
        for field in VALIDATED:
            if field.name not in columns:
                columns[field.name] = pa.array(rng.random(rows))
        return pa.table({field.name: columns[field.name] for field in VALIDATED}, schema=VALIDATED)

    def _some(self, rows: int, texts: pa.Array) -> pa.Array:
        return texts.take(pa.array(self._rng.integers(0, len(texts), rows)))

    def _hex(self, rows: int) -> pa.Array:
        return pa.array([digest.hex() for digest in np.frombuffer(self._rng.bytes(16 * rows), "V16").tolist()])


def _join(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _text(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _lists(filled: np.ndarray, values: np.ndarray) -> pa.Array:
    """A list for each row: with the row's value from ``values`` where ``filled`` is true, and empty elsewhere."""
    offsets = np.concatenate([[0], np.cumsum(filled)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[filled].tolist(), pa.string()))
