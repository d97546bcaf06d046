"""Reads new results of img2dataset before an interval is planned.

The results tell which images are gone: img2dataset could not download them. Results belong to no interval. Each run
reads all new files of the source. Each plan uses all results so far.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError, NotReadyError, printable
from capsfusion_tasks.pairing.bucket_count import bucket_count
from capsfusion_tasks.pairing.columns import Counts
from capsfusion_tasks.pairing.image_results import batches_of, publish_batch, read_results
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards.listing import image_result_files
from capsfusion_tasks.shards.source import Source
from capsfusion_tasks.shards.sources import image_results_source, opened
from capsfusion_tasks.staging import layout, scratch
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.sessions import locked_session

log = logging.getLogger(__name__)

# Number of files to read in parallel. There can be tens of thousands of files, and on S3 each file takes several round
# trips. But more readers would need more processes, because each reader has its own decoder process.
_READERS = 4
_SMALL_BYTES = 32 << 20
BATCH_ROWS = 8 << 20  # a batch of image results with this many rows is full; all of LAION-COCO makes 75 batches
SMALL_BATCHES = 8  # when this many batches have fewer than BATCH_ROWS / 2 rows, read their files again as one batch


def read_image_results(context: Context) -> None:
    """Read all new files of image results, and remove the results of files that are no longer in the source.

    A file with errors is marked as failed in the ledger, and the next run tries it again. If a file temporarily
    cannot be read, the other files are read first. Then NotReadyError is raised, because a retry may read the file.
    """
    settings, storage, engine = context.settings, context.storage, context.warehouse.engine
    place = image_results_source(settings)
    if place is None or not storage.exists(layout.BUCKETS_CONFIG):  # there are no pairs before the buckets exist
        return
    buckets = bucket_count(storage, settings)
    source = place.origin.model_dump(mode="json")
    with locked_session(engine) as session:
        session.lock("image_results", storage.root)  # other runs wait here until all files are read
        shards = image_result_files(settings)
        listed = {shard.shard_id for shard in shards}
        batches = batches_of(storage, source)
        # Each run with new results adds a batch, and planning reads all batches. To keep the batches few, merge small
        # batches into one.
        small = [batch for batch in batches if batch.rows < BATCH_ROWS // 2]
        merged = small if len(small) >= SMALL_BATCHES else []
        outdated = [batch for batch in batches if batch in merged or not batch.files.keys() <= listed]
        read = {name: counts for batch in batches if batch not in outdated for name, counts in batch.files.items()}
        _record(context, shards, read)
        unread = [shard for shard in shards if shard.shard_id not in read]
        passing: list[NotReadyError] = []
        while unread:
            batch = _Batch(settings, place.source, buckets, iter(unread))
            with scratch.temporary_folder(settings.scratch_folder, "split-", "the image results") as folder:
                publish_batch(storage, folder, source, batch.tables(), batch.files)
            _finish(context, batch)
            passing += batch.passing
            done = {shard_id for shard_id, _ in batch.files.values()} | batch.failed.keys()
            unread = [shard for shard in unread if shard.shard_id not in done]
        if passing:
            raise passing[0]
        # Delete old batches only after the new batches exist. Otherwise planning could miss results.
        for old in outdated:
            old.delete(storage)


def _record(context: Context, shards: list[Shard], read: dict[str, Counts]) -> None:
    """Add new files to the ledger, and remove deleted files from it. Marks files that earlier runs read as pulled."""
    with context.warehouse.engine.begin() as connection:
        known = ledger.image_results(connection)
        ledger.record_shards(connection, [shard for shard in shards if shard.shard_id not in known])
        ledger.forget_image_results(connection, sorted(known.keys() - {shard.shard_id for shard in shards}))
        for shard_id, counts in read.items():
            if known.get(shard_id) != "pulled":
                ledger.shard_pulled(connection, shard_id, counts.rows, counts.dropped)


@dataclass
class _File:
    """A file of a batch. ``tables``: all results of the file; None for a large file, which is read only when needed."""

    shard: Shard
    number: int
    counts: Counts = field(default_factory=Counts)
    tables: Iterable[pa.Table] | None = None
    error: InputError | NotReadyError | None = None


@dataclass
class _Batch:
    """The files of one batch: the next files of ``unread``, until the batch has enough rows.

    ``failed`` has all errors. ``passing`` has the errors that a retry may solve.
    """

    settings: Settings
    source: Source
    buckets: int
    unread: Iterator[Shard]
    rows: int = 0
    files: dict[int, tuple[str, Counts]] = field(default_factory=dict)  # read files: number → shard_id, counts
    failed: dict[str, str] = field(default_factory=dict)  # shard_id → error
    passing: list[NotReadyError] = field(default_factory=list)

    def tables(self) -> Iterator[pa.Table]:
        """The results of the files, for ``publish_batch``. Fills ``files``, ``failed`` and ``passing``."""
        for file in read_ahead(self._read_small, enumerate(self._next()), _READERS):
            try:
                if file.error:
                    raise file.error
                yield from self._results(file) if file.tables is None else file.tables
                self.files[file.number] = file.shard.shard_id, file.counts
            except (InputError, NotReadyError) as error:
                problem = str(error)
                if isinstance(error, NotReadyError):
                    self.passing.append(error)
                else:
                    problem += ", or exclude it with CAPSFUSION_IMAGE_RESULTS_EXCLUDE"
                self.failed[file.shard.shard_id] = problem
                log.warning("plan: skipping a file of image results: %s", problem)
            self.rows += file.counts.rows

    def _next(self) -> Iterator[Shard]:
        while self.rows < BATCH_ROWS and (shard := next(self.unread, None)) is not None:
            yield shard

    def _read_small(self, numbered: tuple[int, Shard]) -> _File:
        """Read a small file completely, in a thread. Leave large files to ``tables``, which reads them one by one."""
        number, shard = numbered
        file = _File(shard, number)
        if shard.size_bytes <= _SMALL_BYTES:
            try:
                file.tables = list(self._results(file))
            except (InputError, NotReadyError) as error:
                file.error = error
        return file

    def _results(self, file: _File) -> Iterator[pa.Table]:
        with opened(file.shard, self.settings, self.source) as stream:
            where = printable(f"{file.shard.source}/{file.shard.path}")
            yield from read_results(stream, where, self.buckets, file.number, file.counts)


def _finish(context: Context, batch: _Batch) -> None:
    rows = sum(counts.rows for _, counts in batch.files.values())
    log.info("plan: read %d files of image results, %d rows", len(batch.files), rows)
    with context.warehouse.engine.begin() as connection:
        for shard_id, counts in batch.files.values():
            ledger.shard_pulled(connection, shard_id, counts.rows, counts.dropped)
        for shard_id, error in batch.failed.items():
            ledger.shard_failed(connection, shard_id, error)
