"""The mark of a pulled shard: a JSON file with the shard's row counts, buckets and pull rules.

A pull reads a shard from its source and distributes its rows over buckets. The pull rules are the settings that decide
which rows and columns the pull keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing.columns import Counts
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import PAIRED, Shard, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.staging.summaries import Summaries

_DELETERS = 16  # number of bucket files to delete in parallel; on S3 each file takes three round trips


def read(storage: Storage, side: Side, shard_id: str) -> dict[str, Any] | None:
    """Return the shard's mark, even if the pull is incomplete. None if no pull wrote files of the shard."""
    path = layout.pulled_mark(side, shard_id)
    if not storage.exists(path):
        return None
    mark: dict[str, Any] = storage.read_json(path)
    return mark


def is_whole(mark: dict[str, Any]) -> bool:
    """Whether the shard is pulled completely. If not, a task must pull it again or is pulling it now."""
    return bool(mark.get("whole", True))


def rules_of(mark: dict[str, Any]) -> PullRules | None:
    """The rules in the mark.

    None if an older version of this project wrote the mark, or if a task is replacing the shard's files.
    """
    return PullRules(**mark["rules"]) if mark.get("rules") else None


def _is_replaced(mark: dict[str, Any]) -> bool:
    return "rules" in mark and mark["rules"] is None


def publish(storage: Storage, shard: Shard, rules: PullRules, counts: Counts, buckets: dict[str, int]) -> None:
    mark = {**asdict(counts), "buckets": buckets, "rules": asdict(rules)}
    _write(storage, shard.side, shard.shard_id, mark)


def _write(storage: Storage, side: Side, shard_id: str, mark: dict[str, Any]) -> None:
    _summaries(storage, side).note_change(shard_id)
    storage.write_json(layout.pulled_mark(side, shard_id), mark)


def _summaries(storage: Storage, side: Side) -> Summaries:
    return Summaries(storage, layout.pulled_summary(side))


def record(storage: Storage, side: Side, shard_id: str, mark: dict[str, Any], rules: PullRules) -> None:
    """Add ``rules`` to a mark that an older version of this project wrote."""
    _write(storage, side, shard_id, {**mark, "rules": asdict(rules)})


def invalidate(storage: Storage, side: Side, shard_id: str) -> None:
    """Mark the shard as incomplete, so that it is pulled again. Until then, joins can still read its bucket files."""
    if mark := read(storage, side, shard_id):
        _write(storage, side, shard_id, {**mark, "whole": False})


def begin(storage: Storage, shard: Shard, rules: PullRules, buckets: Iterable[str]) -> set[str]:
    """Mark the shard as incomplete, and record the buckets that a task will write. Return the buckets of earlier pulls.

    If the task is killed, the next pull or ``remove`` finds all files of the shard by this mark. If an earlier pull
    made the files with other rules, ``require_rules`` prevents joins until the new pull is complete.
    """
    mark = read(storage, shard.side, shard.shard_id)
    before = mark["buckets"] if mark else {}
    if mark is None:
        mark = {**asdict(Counts()), "rules": asdict(rules)}
    elif rules_of(mark) != rules:
        mark["rules"] = None
    # Until the pull is complete, the mark gives 0 rows for each bucket that only this pull writes.
    mark |= {"whole": False, "buckets": {**dict.fromkeys(buckets, 0), **before}}
    _write(storage, shard.side, shard.shard_id, mark)
    return set(before)


def delete_files(storage: Storage, side: Side, shard_id: str, buckets: Iterable[str]) -> None:
    def delete(bucket: str) -> None:
        with suppress(FileNotFoundError):
            storage.delete(layout.bucket_file(side, int(bucket), shard_id))

    with ThreadPoolExecutor(_DELETERS) as deleters:
        for _ in deleters.map(delete, buckets):
            pass


def remove(storage: Storage, shard: Shard) -> None:
    """Delete the shard's bucket files and its mark. Until both are deleted, ``require_rules`` prevents joins."""
    side, shard_id = shard.side, shard.shard_id
    mark = read(storage, side, shard_id)
    if mark is None:
        return
    _write(storage, side, shard_id, {**mark, "whole": False, "rules": None})
    delete_files(storage, side, shard_id, mark["buckets"])
    with suppress(FileNotFoundError):
        storage.delete(layout.pulled_mark(side, shard_id))


def require_rules(storage: Storage, rules: PullRules, *, but: set[str], mend: str) -> None:
    """Raise InputError if a shard was pulled with rules that differ from ``rules``. Ignore the shards in ``but``.

    Raise NotReadyError if a task is replacing the files of a shard. ``mend``: the advice in both errors. Call this
    before a join, because a join reads the bucket files of all shards. To be fast, opens only marks that are new or
    have changed, and takes the rules of all other marks from a summary file.
    """
    others = []
    for side, shard_id, mark in _marks(storage):
        made_with = rules_of(mark)
        if made_with is None and not _is_replaced(mark):
            record(storage, side, shard_id, storage.read_json(layout.pulled_mark(side, shard_id)), rules)
        elif made_with != rules and shard_id not in but:
            others.append((f"{side}/{shard_id}", made_with))
    if not others:
        return
    # First report shards with other rules, because shards that are being pulled again may soon be complete.
    first, made_with = min(others, key=lambda other: other[1] is None)
    where = f"{len(others)} shards in the buckets of {storage.root} (the first: {first})"
    if made_with is None:
        raise NotReadyError(f"{where} are being pulled again, or were being pulled when a run was killed. {mend}")
    back = f", or set {made_with.variables(rules)}" if made_with.variables(rules) else ""
    raise InputError(f"{where} were pulled with {made_with.against(rules)}. {mend}{back}")


def _marks(storage: Storage) -> Iterator[tuple[Side, str, dict[str, Any]]]:
    """Yield the side, the id and the mark of each shard. Of each mark, yield only the key ``rules``."""
    for side in PAIRED:
        shard_ids = [
            path.rpartition("/")[2].removesuffix(".json") for path in storage.files(layout.pulled_folder(side))
        ]

        def rules(shard_id: str, side: Side = side) -> dict[str, Any]:
            mark = storage.read_json(layout.pulled_mark(side, shard_id))
            return {key: mark[key] for key in ("rules",) if key in mark}

        for shard_id, mark in _summaries(storage, side).facts(shard_ids, rules).items():
            yield side, shard_id, mark
