"""Compares lists of shards, the ledger and bucket files: each row of a pulled shard must be in a bucket or dropped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing import pulled
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.sources import image_results_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import StoredFile
from capsfusion_tasks.upkeep.evidence import Evidence, PullMark
from capsfusion_tasks.upkeep.findings import REPAIR, Finding, run_again
from capsfusion_tasks.upkeep.listing import READERS, existing
from capsfusion_tasks.upkeep.progress import counted
from capsfusion_tasks.warehouse.invariants import LedgerShard, pull_again

Buckets = dict[str, StoredFile]  # bucket → a shard's file in this bucket


def findings(evidence: Evidence, footers: bool) -> Iterator[Finding]:
    """Problems of shards and their bucket files. ``footers``: open each bucket file, to count its rows."""
    for path, why in evidence.broken_lists.items():
        yield Finding(
            "list-unreadable", path, why, f"delete {evidence.storage.path(path)}, then run its interval again"
        )
    files = _bucket_files(evidence)
    evidence.doing("looking for missing bucket files")
    missing = _missing(evidence, files)
    has_rows = _rows_of_files(evidence, files, footers)
    listed = [(interval, shard) for interval, shards in evidence.lists.items() for shard in shards]
    for interval, shard in counted(listed, evidence.doing, "checking shards", len(listed)):
        yield from _ledger(evidence, interval, shard)
        if mark := evidence.marks.get(shard.shard_id):
            yield from _buckets(evidence, interval, shard, mark, files[shard.shard_id], missing, has_rows)
    if evidence.scope.interval is None:
        yield from _unknown(evidence, files)
        yield from _image_results(evidence)


def rows(evidence: Evidence) -> dict[str, Counter[str]]:
    """For each side, how many rows of pulled shards are ``in buckets``, and how many were dropped, by reason."""
    found: dict[str, Counter[str]] = {}
    for shard, mark in _pulled(evidence):
        counts = found.setdefault(shard.side, Counter({"in buckets": 0}))
        counts["in buckets"] += sum(mark.buckets.values())
        counts.update(mark.dropped)
    return found


def _pulled(evidence: Evidence) -> Iterator[tuple[Shard, PullMark]]:
    for shard in (shard for shards in evidence.lists.values() for shard in shards):
        if mark := evidence.marks.get(shard.shard_id):
            yield shard, mark


def _bucket_files(evidence: Evidence) -> dict[str, Buckets]:
    files: dict[str, Buckets] = defaultdict(dict)
    for file in evidence.listing.under("buckets"):
        parts = file.path.split("/")
        if len(parts) == 4 and parts[2].isdigit():
            files[parts[3].removesuffix(".parquet")][parts[2]] = file
    return files


def _missing(evidence: Evidence, files: dict[str, Buckets]) -> set[str]:
    """The bucket files that pulls wrote and that do not exist. Looks them up together, because there may be many."""
    unlisted = [
        layout.bucket_file(shard.side, int(bucket), shard.shard_id)
        for shard, mark in _pulled(evidence)
        for bucket in mark.buckets.keys() - files[shard.shard_id].keys()
    ]
    # Ask the storage again, because a file may have been written after the listing.
    return set(unlisted) - {file.path for file in existing(evidence.storage, unlisted, evidence.bucket_files)}


def _noted_files(mark: PullMark, files: Buckets) -> list[tuple[str, StoredFile]]:
    """The shard's files in the buckets for which the pull recorded rows, as (bucket, file)."""
    return [(bucket, files[bucket]) for bucket in sorted(mark.buckets.keys() & files.keys())]


def _rows_of_files(evidence: Evidence, files: dict[str, Buckets], footers: bool) -> Iterator[int | str | None]:
    """For each file in ``_noted_files`` of all pulled shards: its number of rows, or what is wrong with the file.

    The value is None if the rows are not counted. Reads the files of several shards in parallel, because a single shard
    may have fewer files than can be read in parallel.
    """
    noted = (file for shard, mark in _pulled(evidence) for _, file in _noted_files(mark, files[shard.shard_id]))
    if footers:
        return read_ahead(lambda file: evidence.footer_rows(file.path), noted, READERS)
    return (None if file.size else "the file is empty" for file in noted)


def _ledger(evidence: Evidence, interval: Interval, shard: Shard) -> Iterator[Finding]:
    """Contradictions between the shard's state in the ledger and its files."""
    entry = evidence.shards.get(shard.shard_id)
    mark = evidence.listing.get(layout.pulled_mark(shard.side, shard.shard_id))
    found = partial(Finding, where=shard.label, mend=run_again(interval))
    if entry is None:
        listed = evidence.listing.get(layout.discovered(interval))
        if listed is not None and evidence.old(listed):
            yield found("shard-not-in-ledger", what=f"{listed.path} lists the shard, but the ledger does not have it")
    elif entry.state == "failed":
        yield found("shard-failed", what=f"the shard could not be pulled: {entry.error}")
    elif entry.state == "pulled" and (mark is None or _interrupted(evidence, shard, mark)):
        what = "the ledger says that the shard was pulled, but its bucket files are missing or incomplete"
        yield found("shard-lost", what=what, repair=partial(_pull_again, evidence, shard))
    elif entry.state == "discovered" and ((mark and evidence.old(mark)) or _passed_over(evidence, interval)):
        yield found(
            "shard-not-pulled",
            what="a pull has recorded the shard, or its interval is paired, but its state in the ledger is discovered",
        )
    elif entry.state == "pulled" and (noted := evidence.marks.get(shard.shard_id)) and not _same(entry, noted):
        what = f"the ledger has {entry.rows} rows, dropped {entry.dropped}; the pull recorded {noted}"
        yield found("shard-counts-differ", what=what, repair=partial(_pull_again, evidence, shard))


def _interrupted(evidence: Evidence, shard: Shard, mark: StoredFile) -> bool:
    """Whether a pull of the shard began long ago and never ended."""
    return shard.shard_id not in evidence.marks and mark.path not in evidence.broken_lists and evidence.old(mark)


def _same(entry: LedgerShard, mark: PullMark) -> bool:
    return (entry.rows, entry.dropped) == (mark.rows, mark.dropped)


def _passed_over(evidence: Evidence, interval: Interval) -> bool:
    """Whether the interval was paired so long ago that no running task can still pull its shards."""
    pairs = evidence.listing.under(layout.pairs_folder(interval))
    return bool(pairs) and all(evidence.old(file) for file in pairs)


def _buckets(
    evidence: Evidence,
    interval: Interval,
    shard: Shard,
    mark: PullMark,
    files: Buckets,
    missing: set[str],
    has_rows: Iterator[int | str | None],
) -> Iterator[Finding]:
    """Differences between the shard's bucket files and the rows that its pull recorded.

    ``has_rows``: the iterator of ``_rows_of_files``. This function takes the values of the shard's files from it.
    """
    repair = partial(_pull_again, evidence, shard)
    found = partial(Finding, mend=f"{REPAIR}, then {run_again(interval)}", repair=repair)
    noted = mark.buckets
    kept = mark.rows - sum(mark.dropped.values())
    if sum(noted.values()) != kept:
        what = f"the pull recorded {mark}, and {sum(noted.values())} rows in buckets instead of {kept}"
        yield found("shard-rows", shard.label, what)
    for bucket in sorted(noted.keys() - files.keys()):
        path = layout.bucket_file(shard.side, int(bucket), shard.shard_id)
        if path in missing:
            yield found(
                "bucket-file-missing", path, f"the pull of {shard.label} wrote {noted[bucket]} rows to this file"
            )
    for bucket in sorted(files.keys() - noted.keys()):
        delete = partial(_delete_unexpected, evidence, shard, bucket)
        what = f"{shard.label} has no rows in this bucket"
        yield found("bucket-file-unexpected", files[bucket].path, what, repair=delete)
    for bucket, file in _noted_files(mark, files):
        has = next(has_rows)
        if isinstance(has, str):
            yield found("bucket-file-unreadable", file.path, has)
        elif has not in (None, noted[bucket]):
            yield found(
                "bucket-file-rows", file.path, f"the file has {has} rows, but the pull recorded {noted[bucket]}"
            )


def _unknown(evidence: Evidence, files: dict[str, Buckets]) -> Iterator[Finding]:
    """Findings about bucket files whose shard is in no interval's list. These files matter, because joins read them."""
    listed = {shard.shard_id for shards in evidence.lists.values() for shard in shards}
    for shard_id in files.keys() - listed:
        if not all(evidence.old(file) for file in files[shard_id].values()):
            continue
        entry = evidence.shards.get(shard_id)
        said = f"its path in the ledger is {entry.side}/{entry.path}" if entry else "it is not in the ledger either"
        what = f"{len(files[shard_id])} bucket files of shard {shard_id}, which is in no list of shards; {said}"
        where = next(iter(files[shard_id].values())).path
        mend = "run the interval of the shard again" if entry else f"delete buckets/*/*/{shard_id}.*"
        yield Finding("bucket-files-of-unknown-shard", where, what, mend)


def _image_results(evidence: Evidence) -> Iterator[Finding]:
    """Files of image results that could not be read. Each run tries to read them again."""
    if image_results_source(evidence.settings) is None:
        return
    for shard in evidence.shards.values():
        if shard.side == "image_results" and shard.state == "failed":
            what, mend = (
                f"the file could not be read: {shard.error}",
                "run any interval: each run tries failed files again",
            )
            yield Finding("image-results-failed", f"{shard.side}/{shard.path}", what, mend)


def _delete_unexpected(evidence: Evidence, shard: Shard, bucket: str) -> str:
    # Read the mark again, because a pull may have begun since the check. A pull names its buckets in the mark before it
    # writes files to them.
    mark = pulled.read(evidence.storage, shard.side, shard.shard_id)
    if mark is None or not pulled.is_whole(mark) or bucket in mark["buckets"]:
        raise NotReadyError(f"a task is pulling {shard.label} again: try again later")
    pulled.delete_files(evidence.storage, shard.side, shard.shard_id, [bucket])
    return "the file is deleted"


def _pull_again(evidence: Evidence, shard: Shard) -> str:
    # Keep the bucket files until the next pull replaces them. A join fails if a bucket file is broken, but it would not
    # notice a missing file.
    pulled.invalidate(evidence.storage, shard.side, shard.shard_id)
    pull_again(evidence.warehouse.engine, [shard.shard_id])
    return "set to discovered: the next run of the shard's interval pulls the shard again"
