"""Joins the two sides (LAION-2B, LAION-COCO) of each bucket: new rows of each side with all rows of the other side.

New rows are the rows of the shards of the interval that is joined.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing.bucket_side import BucketSide, with_keys
from capsfusion_tasks.pairing.compaction import compact
from capsfusion_tasks.pairing.database import DoesNotFit, database, join_memory
from capsfusion_tasks.pairing.identity import laion_hashes, pair_ids
from capsfusion_tasks.pairing.lookups import lookups_of
from capsfusion_tasks.pairing.url_limit import LeftOut, leave_out
from capsfusion_tasks.pull_rules import PairRules, PullRules
from capsfusion_tasks.schemas import FOUND_PAIRS, PAIRED
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

log = logging.getLogger(__name__)

# Bytes of bucket files that are joined at a time. The join takes four to eight times as much memory.
_PASS_BYTES = 192 << 20
_IN_MEMORY = 8
_HALVINGS = 5  # a pass that does not fit in memory is halved at most this many times
_READERS = 16  # number of footers to read in parallel; on S3 each footer takes a round trip

# Rows of a side with the same URL and captions count once, even if they are in different shards or their scores differ.
# Of these rows, the row with the highest similarity provides the scores, the license, the shard and the row number. On
# a tie, the first row of the first shard provides them. An image is gone if at least one of the rows says so and none
# says that the image exists.
_DISTINCT = """
create temp table {side} as
select
    {columns}, bool_or(is_new) as is_new, bool_and(gone) as gone,
    arg_min(
        struct_pack(similarity, punsafe, pwatermark, license, shard, row),
        row(coalesce(-similarity, 'infinity'::double), shard, row)
    ) as best
from {side}_rows where hash(url) % {passes} = {number} {and_wanted}
group by {columns}
"""
# First drop the LAION-2B rows that have no partner (a LAION-COCO row with the same URL): three of four rows have none.
# Compare only URLs here, because this is faster than comparing URLs and texts.
_HAS_PARTNER = "and exists (from coco where raw_rows.url = coco.url)"
# If both sides have a similarity, take the similarity of LAION-2B (``raw``). If both sides have a punsafe or a
# pwatermark, take the higher value, because a higher value is worse.
_PAIRS = """
select
    raw.url as image_url, raw.text as laion_2b, coco.synthetic as laion_coco,
    coalesce(raw.best.similarity, coco.best.similarity) as similarity,
    greatest(raw.best.punsafe, coco.best.punsafe) as punsafe,
    greatest(raw.best.pwatermark, coco.best.pwatermark) as pwatermark,
    coalesce(raw.best.license, coco.best.license) as license,
    coalesce(raw.gone and coco.gone, raw.gone, coco.gone) as gone,
    raw.best.shard as laion_2b_shard, raw.best.row as laion_2b_row,
    coco.best.shard as laion_coco_shard, coco.best.row as laion_coco_row
from raw join coco on {match}
where raw.is_new or coco.is_new
"""
_SELF_PAIRS = """
select
    url as image_url, text as laion_2b, synthetic as laion_coco,
    best.similarity, best.punsafe, best.pwatermark, best.license, gone,
    best.shard as laion_2b_shard, best.row as laion_2b_row, best.shard as laion_coco_shard, best.row as laion_coco_row
from coco
where is_new
"""


@dataclass(frozen=True)
class Joined:
    """The result of joining a bucket: the number of its new pairs, and counts of what the limit per URL leaves out.

    The limit per URL (CAPSFUSION_URL_PAIRS_MAX) is the maximum number of pairs that a URL may have.
    """

    pairs: int
    left_out: LeftOut


def pair_bucket(bucket: int, new: set[str], interval: Interval, storage: Storage, settings: Settings) -> Joined:
    """Write the bucket's new pairs to ``runs/<interval>/pairs/<bucket>.parquet``.

    ``new``: the ids of the interval's shards. Rows match if their URLs and raw texts are exactly equal. With
    ``join_on = url``, rows match if their URLs are exactly equal. Without a LAION-2B source, each row of LAION-COCO
    provides both captions. A bucket that is too large for memory is joined in several passes. Each row group has the
    pairs of one pass, sorted by ``pair_id``. The footer counts the pairs that the limit per URL leaves out.
    """
    count, left_out = 0, LeftOut()
    sides = _sides(bucket, new, storage, settings)
    new_bytes = sum(side.only_new().bytes for side in sides)
    raw, coco = (side.with_lookups(compact(side, new_bytes)) if side.has_old else side for side in sides)

    def pairs() -> Iterator[pa.Table]:
        nonlocal count, left_out
        for table, more in _joined(raw, coco, settings):
            count, left_out = count + table.num_rows, LeftOut.total([left_out, more])
            yield table

    path = f"{layout.pairs_folder(interval)}/{layout.bucket_name(bucket)}.parquet"
    rules = PairRules.of(settings).as_footer()
    storage.write_tables(path, FOUND_PAIRS, pairs(), rules, summary=lambda: left_out.as_footer())
    return Joined(count, left_out)


def left_out_of(interval: Interval, storage: Storage) -> LeftOut:
    """Counts of the pairs that the limit per URL left out, read from the footers of the interval's pair files."""
    with ThreadPoolExecutor(_READERS) as readers:
        footers = readers.map(storage.footer, storage.files(layout.pairs_folder(interval)))
        return LeftOut.total(LeftOut.recorded(footer) for footer, _ in footers)


def bucket_pairs(bucket: int, new: set[str], storage: Storage, settings: Settings) -> Iterator[pa.Table]:
    """The bucket's new pairs: pairs with at least one row from a shard in ``new``.

    Yields a table (``schemas.FOUND_PAIRS``) for each pass over the bucket.
    """
    sides = _sides(bucket, new, storage, settings)
    raw, coco = (side.with_lookups(lookups_of(storage, side.side, bucket, side.sizes, side.rules)) for side in sides)
    return (table for table, _ in _joined(raw, coco, settings))


def _sides(bucket: int, new: set[str], storage: Storage, settings: Settings) -> tuple[BucketSide, BucketSide]:
    """The files of LAION-2B and of LAION-COCO whose rows can form new pairs."""
    rules = PullRules.of(settings)
    raw, coco = (BucketSide.of(storage, side, bucket, new, rules) for side in PAIRED)
    if settings.self_paired:
        raw = replace(raw, files={})
    if PairRules.of(settings).url_pairs_max != "none" and (raw.has_new or coco.has_new):
        return raw, coco  # the limit per URL also counts pairs of two old rows
    # Earlier runs found the pairs of two old rows. So a side's old rows are needed only if the other side has new rows.
    return raw if coco.has_new else raw.only_new(), coco if raw.has_new else coco.only_new()


def _joined(raw: BucketSide, coco: BucketSide, settings: Settings) -> Iterator[tuple[pa.Table, LeftOut]]:
    if not raw.files and not coco.files:
        return
    raw, coco = with_keys(raw, coco)
    passes = max(1, -(-(raw.bytes + coco.bytes) // min(_PASS_BYTES, join_memory(settings) // _IN_MEMORY)))
    for number in range(passes):
        yield from _passes(raw, coco, number, passes, settings, passes << _HALVINGS)


def _passes(
    raw: BucketSide, coco: BucketSide, number: int, passes: int, settings: Settings, most: int
) -> Iterator[tuple[pa.Table, LeftOut]]:
    """Join the rows of pass ``number`` (from 0) of ``passes``. Each pass joins the rows of one part of the URLs.

    If the rows do not fit in memory, split the pass into two halves. Halves are split further, up to ``most`` passes.
    """
    try:
        with raw.storage.answering():
            joined, left_out = _join(raw, coco, number, passes, settings)
    except DoesNotFit:
        if passes >= most:
            raise
        log.info(
            "one of %d passes over a bucket does not fit in CAPSFUSION_PAIR_MEMORY, so it is joined in two halves",
            passes,
        )
        for half in (number, number + passes):  # the two halves are passes of a join with twice as many passes
            yield from _passes(raw, coco, half, 2 * passes, settings, most)
        return
    yield _with_identity(joined, raw.shards or coco.shards, coco.shards), left_out


def _join(raw: BucketSide, coco: BucketSide, number: int, passes: int, settings: Settings) -> tuple[pa.Table, LeftOut]:
    """The new pairs of pass ``number`` (from 0) of ``passes``, and counts of what the limit per URL leaves out."""
    by_text = settings.join_on == "url_text" or settings.self_paired
    match = "raw.url = coco.url" + (" and raw.text = coco.text" if by_text else "")
    part = {"passes": passes, "number": number}
    most, left_out = PairRules.of(settings).url_pairs_max, LeftOut()
    with database(settings) as connection, _errors_of_readers() as failures:
        connection.register("coco_rows", coco.rows(failures))
        columns = "url, text, synthetic" if by_text else "url, synthetic"
        connection.execute(_DISTINCT.format(side="coco", columns=columns, and_wanted="", **part))
        if settings.self_paired:
            return connection.sql(_SELF_PAIRS).to_arrow_table(), left_out
        connection.register("raw_rows", raw.rows(failures))
        connection.execute(_DISTINCT.format(side="raw", columns="url, text", and_wanted=_HAS_PARTNER, **part))
        if most != "none":
            left_out = leave_out(connection, most)
        return connection.sql(_PAIRS.format(match=match)).to_arrow_table(), left_out


@contextmanager
def _errors_of_readers() -> Iterator[list[Exception]]:
    """Yield a list to which the readers of rows (``BucketSide.rows``) add their errors.

    If DuckDB raises an error because a reader failed, raise the first error in the list instead.
    """
    failures: list[Exception] = []
    try:
        yield failures
    except duckdb.Error as error:
        if failures:
            raise failures[0] from error
        raise


def _with_identity(joined: pa.Table, raw_shards: list[str], coco_shards: list[str]) -> pa.Table:
    """``joined`` in the schema FOUND_PAIRS: with pair ids, and shard ids in place of numbers. Sorted by ``pair_id``."""
    for name, shards in {"laion_2b_shard": raw_shards, "laion_coco_shard": coco_shards}.items():
        ids = pa.array(shards, pa.string()).take(joined[name].combine_chunks())
        joined = joined.set_column(joined.column_names.index(name), name, ids)
    url, raw, synthetic = (joined[name] for name in ("image_url", "laion_2b", "laion_coco"))
    joined = joined.append_column("pair_id", pair_ids(url, raw, synthetic))
    joined = joined.append_column("laion_hash", laion_hashes(url, raw))
    return joined.select(FOUND_PAIRS.names).cast(FOUND_PAIRS).sort_by("pair_id")
