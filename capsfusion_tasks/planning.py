"""The plan stage: new pairs become work units, cut by estimated tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks import layout
from capsfusion_tasks.schemas import PAIRS, Unit
from capsfusion_tasks.settings import Interval
from capsfusion_tasks.storage import Storage

# Estimated tokens of a row: measured with LLaMA's tokenizer on 10,000 published pairs, a prompt has 112 tokens of
# instruction, a caption comes out at 37.2 tokens on average, and captions have about 4 characters a token.
TEMPLATE_TOKENS = 112
CAPTION_TOKENS = 37
CHARACTERS_PER_TOKEN = 4


def new_pairs(
    storage: Storage,
    interval: Interval,
    is_known: Callable[[pa.ChunkedArray], pa.Array | None],
    in_flight: list[str],
    limit: int | None,
) -> pa.Table:
    """The interval's pairs that nobody has fused or is about to fuse, at most ``limit``, ordered by bucket and pair_id.

    ``is_known`` tells for pair_ids, [rows] binary(16), which the warehouse has (None: take them all). ``in_flight``
    are the units that are planned and not loaded.
    """
    taken = [storage.read_table(layout.unit_pairs(unit_id), columns=["pair_id"]) for unit_id in in_flight]
    taken_ids = pa.concat_tables([PAIRS.empty_table().select(["pair_id"]), *taken])["pair_id"].combine_chunks()
    kept, rows = [PAIRS.empty_table()], 0
    for path in storage.files(layout.pairs_folder(interval)):
        pairs = storage.read_table(path)
        pairs = pairs.filter(pc.invert(pc.is_in(pairs["pair_id"], value_set=taken_ids)))
        known = is_known(pairs["pair_id"])
        if known is not None:
            pairs = pairs.filter(pc.invert(known))
        kept.append(pairs)
        rows += pairs.num_rows
        if limit is not None and rows >= limit:
            break
    return pa.concat_tables(kept).slice(0, limit)


def cut_units(
    storage: Storage, pairs: pa.Table, interval: Interval, fusion_id: str, unit_tokens: int, serial: int
) -> list[Unit]:
    """Publish ``pairs`` as work units of about ``unit_tokens`` estimated tokens each, and return them.

    ``serial`` is the number of units that the interval had before under this fusion: a pair that is fused again must
    not come back as a unit of the same name.
    """
    tokens = estimate_tokens(pairs)
    units: list[Unit] = []
    for start, stop in _ranges(tokens, unit_tokens):
        part = pairs.slice(start, stop - start)
        digest = hashlib.blake2b(f"{interval.key} {fusion_id} {serial + len(units)}".encode(), digest_size=4)
        for pair_id in part["pair_id"].to_pylist():
            digest.update(pair_id)
        unit_id = f"{interval.start:%Y%m%d}-{fusion_id[:6]}-{serial + len(units):04d}-{digest.hexdigest()}"
        storage.write_table(layout.unit_pairs(unit_id), part)
        units.append(Unit(unit_id=unit_id, fusion_id=fusion_id, rows=part.num_rows, tokens=sum(tokens[start:stop])))
    return units


def estimate_tokens(pairs: pa.Table) -> list[int]:
    """Estimated tokens of each row, prompt and caption, without a tokenizer."""
    characters = pc.add(pc.utf8_length(pairs["laion_2b"]), pc.utf8_length(pairs["laion_coco"]))
    fixed = TEMPLATE_TOKENS + CAPTION_TOKENS
    estimate: list[int] = pc.add(pc.divide(characters, CHARACTERS_PER_TOKEN), fixed).to_pylist()
    return estimate


def _ranges(tokens: list[int], unit_tokens: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about equal tokens, so that no unit is a small rest; none much over ``unit_tokens``."""
    total = sum(tokens)
    target = total / max(1, -(-total // unit_tokens))
    start, filled = 0, 0
    for row, size in enumerate(tokens):
        filled += size
        if filled >= target:
            yield start, row + 1
            start, filled = row + 1, 0
    if start < len(tokens):
        yield start, len(tokens)
