"""The schemas of LAION's releases, which have different names and types for the same columns."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import mmh3
import pyarrow as pa

from capsfusion_tasks.demo.sample_rows import Row
from capsfusion_tasks.schemas import Side

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())

# File names like those of the releases laion2B-en-joined and laion-coco. The shard's number replaces {:05}.
FILE_NAME: dict[Side, str] = {
    "laion_2b": "part-{:05}-4cfd6e30-f032-46ee-9105-8696034a8373-c000.snappy.parquet",
    "laion_coco": "part-{:05}-2256f782-126f-4dc6-b9c6-e6757637749d-c000.snappy.parquet",
}

# The shards of a side (LAION-2B or LAION-COCO) have these schemas in turn. LAION-2B has three schemas, so its shards 0
# and 3 have the first schema.
RELEASES: dict[Side, tuple[pa.Schema, ...]] = {
    "laion_2b": (
        pa.schema(  # laion2B-en-joined
            {
                "URL": pa.string(),
                "TEXT": pa.string(),
                "WIDTH": pa.int32(),
                "HEIGHT": pa.int32(),
                "similarity": pa.float64(),
                "hash": pa.int64(),
                "punsafe": pa.float32(),
                "pwatermark": pa.float32(),
            }
        ),
        pa.schema(  # the same columns, with types that other tools write
            {
                "URL": pa.large_string(),
                "TEXT": pa.large_string(),
                "WIDTH": pa.float64(),
                "HEIGHT": pa.float64(),
                "similarity": pa.float64(),
                "hash": pa.int64(),
                "punsafe": pa.float64(),
                "pwatermark": pa.float64(),
            }
        ),
        pa.schema(  # relaion2B-en-research-safe, which img2dataset wrote
            {
                "url": pa.string(),
                "caption": _DICTIONARY,
                "similarity": pa.float64(),
                "hash": pa.int64(),
                "pwatermark": pa.float64(),
                "punsafe": pa.float64(),
                "key": pa.string(),
                "status": _DICTIONARY,
                "error_message": pa.string(),
                "width": pa.int32(),
                "height": pa.int32(),
            }
        ),
    ),
    "laion_coco": (
        pa.schema(  # laion-coco
            {
                "URL": pa.string(),
                "TEXT": pa.string(),
                "top_caption": pa.string(),
                "all_captions": pa.list_(pa.string()),
                "all_similarities": pa.list_(pa.float64()),
                "WIDTH": pa.float64(),
                "HEIGHT": pa.float64(),
                "similarity": pa.float64(),
                "hash": pa.int64(),
                "pwatermark": pa.float32(),
                "punsafe": pa.float32(),
            }
        ),
        pa.schema(  # the same columns, with names and types that other tools write
            {
                "url": pa.large_string(),
                "text": pa.large_string(),
                "top_caption": _DICTIONARY,
                "all_captions": pa.large_list(pa.large_string()),
                "all_similarities": pa.large_list(pa.float32()),
                "width": pa.int32(),
                "height": pa.int32(),
                "similarity": pa.float64(),
                "hash": pa.int64(),
                "pwatermark": pa.float64(),
                "punsafe": pa.float64(),
            }
        ),
    ),
}


def shard_table(rows: Sequence[Row], release: pa.Schema, rng: random.Random) -> pa.Table:
    """``rows`` as a shard with the columns and types of ``release``."""
    values = [_values(number, row, rng) for number, row in enumerate(rows)]
    columns = [typed_column([row[field.name.lower()] for row in values], field.type) for field in release]
    return pa.table(columns, schema=release)


def _values(number: int, row: Row, rng: random.Random) -> dict[str, Any]:
    """A row's values for the columns of all releases: column name in lower case → value."""
    best = round(rng.uniform(0.28, 0.4), 4)
    synthetic = row.synthetic
    return {
        "url": row.url,
        "text": row.text,
        "caption": row.text,
        "top_caption": synthetic,
        "all_captions": None
        if synthetic is None
        else [synthetic, f"{synthetic.rstrip('.')} in a picture.", "a picture"],
        "all_similarities": None if synthetic is None else [best, round(best - 0.02, 4), round(best - 0.07, 4)],
        "width": row.width,
        "height": row.height,
        "similarity": row.similarity,
        # LAION's hash: the 64-bit MurmurHash3 of url + text, as a signed integer. A missing url or text is "".
        "hash": mmh3.hash64(((row.url or "") + (row.text or "")).encode())[0],
        "punsafe": row.punsafe,
        "pwatermark": row.pwatermark,
        "key": f"{number:09}",
        "status": "success",
        "error_message": None,
    }


def typed_column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)
