"""Finds new pairs: those that are neither in the warehouse nor in an unfinished unit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pull_rules import PairRules
from capsfusion_tasks.schemas import PAIRS, Replay
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# Estimated tokens of a row: measured with LLaMA's tokenizer on 10,000 published pairs, a prompt has 112 tokens of
# instruction, a caption comes out at 37.2 tokens on average, and captions have about 4 characters a token.
TEMPLATE_TOKENS = 112
CAPTION_TOKENS = 37
CHARACTERS_PER_TOKEN = 4

BUCKETS_KEY = "capsfusion.buckets"  # in the footer of a unit's pairs: the buckets that they are from


@dataclass(frozen=True)
class NewPairs:
    """Rows of a file of pairs that are new: row numbers and estimated tokens, [rows] each.

    ``taken``: number of other rows, which are fused already or in an unfinished unit.
    """

    path: str
    rows: np.ndarray
    tokens: np.ndarray
    taken: int = 0


class PairsInFlight:
    """The pairs of unfinished units, read bucket by bucket: all of them may not fit in memory."""

    def __init__(self, storage: Storage, unit_ids: Iterable[str]) -> None:
        self.storage = storage
        self._units: dict[str, list[str]] = defaultdict(list)  # bucket → the units with pairs of it
        for path in map(layout.unit_pairs, unit_ids):
            for bucket in storage.footer(path)[0][BUCKETS_KEY].split():
                self._units[bucket].append(path)

    def of(self, path: str) -> pa.Array:
        """Ids of the pairs in flight that may be in the file ``path``: binary(16)."""
        bucket = bucket_of(path)
        if bucket == layout.ANY_BUCKET:
            units = sorted(set().union(*self._units.values()))
        else:
            units = self._units[bucket] + self._units[layout.ANY_BUCKET]
        tables = [self.storage.read_table(unit, columns=["pair_id"]) for unit in units]
        return pa.concat_tables([PAIRS.empty_table().select(["pair_id"]), *tables])["pair_id"].combine_chunks()


def new_pairs(
    storage: Storage,
    work: Interval | Replay,
    is_known: Callable[[pa.ChunkedArray], pa.Array | None],
    in_flight: Iterable[str],
    limit: int | None,
    rules: PairRules | None = None,
) -> list[NewPairs]:
    """The work's new pairs, at most ``limit``, ordered by bucket and pair_id.

    ``is_known`` says for pair_ids, [rows] binary(16), which are in the warehouse; None: take all. ``in_flight`` are the
    unfinished units. Raises InputError if pairs were made with other rules than ``rules``.
    """
    taken = PairsInFlight(storage, in_flight)
    found, left = [], limit
    for path in storage.files(layout.pairs_folder(work)):
        pairs = storage.read_table(path, columns=["pair_id", "laion_2b", "laion_coco"])
        if rules is not None:
            _require_rules(storage.path(path), pairs.schema, rules)
        is_new = pc.invert(pc.is_in(pairs["pair_id"], value_set=taken.of(path)))
        known = is_known(pairs["pair_id"])
        if known is not None:
            is_new = pc.and_not(is_new, known)
        new = np.flatnonzero(is_new.to_numpy())
        rows = new[:left]
        found.append(NewPairs(path, rows, estimate_tokens(pairs)[rows], taken=pairs.num_rows - len(new)))
        if left is not None:
            left -= len(rows)
            if not left:
                break
    return found


def _require_rules(where: str, schema: pa.Schema, rules: PairRules) -> None:
    made_with = PairRules.recorded({key.decode(): value.decode() for key, value in (schema.metadata or {}).items()})
    if made_with is not None and made_with != rules:
        raise InputError(f"{where} was paired with {made_with.against(rules)}: run its interval again from pull on")


def estimate_tokens(pairs: pa.Table) -> np.ndarray:
    """Estimated tokens of each row, prompt and caption, without a tokenizer: [rows] int64.

    A prompt counts at most ``MAX_PROMPT_TOKENS``, because longer prompts are cut.
    """
    characters = pc.add(pc.utf8_length(pairs["laion_2b"]), pc.utf8_length(pairs["laion_coco"]))
    prompt = TEMPLATE_TOKENS + characters.to_numpy().astype(np.int64) // CHARACTERS_PER_TOKEN
    tokens: np.ndarray = np.minimum(prompt, MAX_PROMPT_TOKENS) + CAPTION_TOKENS
    return tokens


def bucket_of(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")
