"""The join: in each bucket, what is new on one side with everything that is there on the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import duckdb
import mmh3
import pyarrow as pa

from capsfusion_tasks import layout
from capsfusion_tasks.schemas import BUCKET_ROWS, PAIRS, Shard, Side
from capsfusion_tasks.settings import Interval, Settings
from capsfusion_tasks.storage import Storage

# One row for each (url, raw text, synthetic caption): content tells pairs apart, so a shard that repeats rows, and two
# shards that share some, add nothing. Of equal candidates the one with the highest similarity names the origin, then
# the lowest shard and row. A score that both sides have is taken from the raw side; the safety scores are the worse.
_JOIN = """
select
    raw.url as image_url, raw.text as laion_2b, coco.synthetic as laion_coco,
    coalesce(raw.similarity, coco.similarity) as similarity,
    greatest(raw.punsafe, coco.punsafe) as punsafe,
    greatest(raw.pwatermark, coco.pwatermark) as pwatermark,
    raw.shard as laion_2b_shard, raw.row as laion_2b_row,
    coco.shard as laion_coco_shard, coco.row as laion_coco_row
from raw join coco on raw.url = coco.url {and_text}
where raw.is_new or coco.is_new
qualify row_number() over (
    partition by image_url, laion_2b, laion_coco
    order by raw.similarity desc nulls last, raw.shard, raw.row, coco.similarity desc nulls last, coco.shard, coco.row
) = 1
"""


def pair_bucket(bucket: int, new: Iterable[Shard], interval: Interval, storage: Storage, settings: Settings) -> int:
    """Write the bucket's new pairs to ``runs/<interval>/pairs/<bucket>.parquet``; returns how many there are.

    ``new`` are the interval's shards. Rows match on URL and raw text, as they came (on URL alone with
    ``join_on = url``). The order of the pairs depends on their content only.
    """
    new_ids = {shard.shard_id for shard in new}
    sides: dict[str, Side] = {"raw": "laion_2b", "coco": "laion_coco"}
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = false")
        for name, side in sides.items():
            connection.register(name, _bucket_rows(storage, side, bucket, new_ids))
        and_text = "and raw.text = coco.text" if settings.join_on == "url_text" else ""
        joined = connection.sql(_JOIN.format(and_text=and_text)).to_arrow_table()
    pairs = _with_identity(joined)
    storage.write_table(f"{layout.pairs_folder(interval)}/{bucket:05d}.parquet", pairs)
    return int(pairs.num_rows)


def _bucket_rows(storage: Storage, side: Side, bucket: int, new_ids: set[str]) -> pa.Table:
    """All rows of a side's bucket, with the columns ``shard`` and ``is_new``."""
    tables = []
    for path in storage.files(layout.bucket_folder(side, bucket)):
        shard_id = path.rpartition("/")[2].removesuffix(".parquet")
        table = storage.read_table(path)
        table = table.append_column("shard", pa.repeat(shard_id, table.num_rows))
        tables.append(table.append_column("is_new", pa.repeat(shard_id in new_ids, table.num_rows)))
    empty = BUCKET_ROWS.append(pa.field("shard", pa.string())).append(pa.field("is_new", pa.bool_())).empty_table()
    return pa.concat_tables([empty, *tables], promote_options="permissive")


def _with_identity(joined: pa.Table) -> pa.Table:
    """``joined`` in schema PAIRS, with its identities, in the order of ``pair_id``."""
    texts = zip(*(joined[name].to_pylist() for name in ("image_url", "laion_2b", "laion_coco")), strict=True)
    ids, hashes = [], []
    for url, raw, synthetic in texts:
        ids.append(pair_id(url, raw, synthetic))
        hashes.append(laion_hash(url, raw))
    table = joined.append_column("pair_id", pa.array(ids, pa.binary(16)))
    table = table.append_column("laion_hash", pa.array(hashes, pa.int64()))
    return table.select(PAIRS.names).cast(PAIRS).sort_by("pair_id")


def pair_id(url: str, raw: str, synthetic: str) -> bytes:
    """A pair's identity: a 128-bit digest of its content, each part with its length before it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (url, raw, synthetic):
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def laion_hash(url: str | None, text: str | None) -> int:
    """LAION's own join key, as its tooling computes it: signed 64 bits of MurmurHash3 over url + text."""
    value: int = mmh3.hash64(((url or "") + (text or "")).encode())[0]
    return value
