"""Cuts new pairs into work units (one GPU task fuses a unit) by estimated tokens.

Keeps only a few buckets of pairs in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.in_flight import BUCKETS_KEY
from capsfusion_tasks.planning.new_pairs import NewPairs
from capsfusion_tasks.planning.pair_files import bucket_of, digest_of
from capsfusion_tasks.pull_rules import UnitRules
from capsfusion_tasks.schemas import PAIRS, Replay, Unit, with_columns_of
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage

MAX_UNITS = 1024  # maximum units of a run: Airflow's default limit for a mapped task (core.max_map_length)
# Intended time to fuse a unit on one device, in seconds. Longer units would lose more work if a task fails. With
# shorter units, more time would go into starting the ranks (processes of torchrun), which took 43 s for a 13B model on
# an H200.
UNIT_SECONDS = 1800
LONGEST_UNIT_SECONDS = 3600  # maximum time to fuse a unit, in seconds: half the time limit of a fuse task
UNIT_TOKENS_AT_FIRST = 400_000  # estimated tokens of a unit while no rate is measured

_UNREADABLE = (pa.ArrowException, FileNotFoundError)  # errors when a damaged or missing file is read


def choose_unit_tokens(total: int, tokens_per_second: float | None, max_units: int | None = None) -> int:
    """Estimated tokens of a unit: half an hour of work for a device that processes ``tokens_per_second``.

    If this gives more than ``max_units`` units, units become larger, up to an hour of work. While no rate is known,
    units are small. Fusing them measures the rate, and the next run plans the remaining pairs with this rate.
    """
    if tokens_per_second is None:
        return UNIT_TOKENS_AT_FIRST
    enough = -(-total // (max_units or MAX_UNITS))
    good, longest = (int(seconds * tokens_per_second) for seconds in (UNIT_SECONDS, LONGEST_UNIT_SECONDS))
    return max(1, min(max(good, enough), longest))


def cut_units(
    storage: Storage,
    pairs: Iterable[NewPairs],
    work: Interval | Replay,
    fusion_id: str,
    unit_tokens: int,
    serial: int,
    rules: UnitRules | None = None,
    max_units: int | None = None,
) -> list[Unit]:
    """Publish ``pairs`` as work units of about ``unit_tokens`` estimated tokens each, and return them.

    Pairs that do not fit into ``max_units`` units are left for another run. ``serial``: number of units that the
    interval or replay already had under this fusion. Unit ids include this number, so that no id is used twice. The
    footer of each unit's file records ``rules``. Raises NotReadyError if a file of pairs has changed since it was read.
    """
    footer = rules.as_footer() if rules else {}
    units: list[Unit] = []
    begins = f"{work.start:%Y%m%d}" if isinstance(work, Interval) else "replay"
    for table, tokens, buckets in _cut(storage, list(pairs), unit_tokens):
        if len(units) == (max_units or MAX_UNITS):
            break
        digest = hashlib.blake2b(f"{work.key} {fusion_id} {serial + len(units)}".encode(), digest_size=4)
        digest.update(b"".join(table["pair_id"].to_pylist()))
        unit_id = f"{begins}-{fusion_id[:6]}-{serial + len(units):04d}-{digest.hexdigest()}"
        storage.write_table(layout.unit_pairs(unit_id), table, {BUCKETS_KEY: " ".join(buckets), **footer})
        units.append(Unit(unit_id=unit_id, fusion_id=fusion_id, rows=table.num_rows, tokens=tokens))
    return units


def may_be_of(unit_id: str, fusion_id: str) -> bool:
    """Whether the unit may belong to the fusion. The id of a unit has only the first six characters of a fusion_id."""
    return f"-{fusion_id[:6]}-" in unit_id


def rules_of(storage: Storage, unit_id: str) -> UnitRules | None:
    """The rules that the unit was planned with.

    None if the unit's file cannot be read or records no rules. The files of a replay's units record none.
    """
    try:
        return UnitRules.recorded(storage.footer(layout.unit_pairs(unit_id))[0])
    except _UNREADABLE:  # not reported here, because the fuse task reports this error
        return None


def common_rules(storage: Storage, unit_ids: Iterable[str], now: UnitRules) -> UnitRules | None:
    """The rules of units that were planned together, from the first unit whose file can be read.

    None if no file can be read. An earlier version may have planned the units without recording rules. In this case,
    ``now`` counts as their rules, and is recorded in their files.
    """
    unit_ids = list(unit_ids)
    for first, unit_id in enumerate(unit_ids):
        with suppress(*_UNREADABLE):
            if recorded := UnitRules.recorded(storage.footer(layout.unit_pairs(unit_id))[0]):
                return recorded
            # Record the first unit last, because a rerun after a crash reads only the rules of the first unit.
            for other in reversed(unit_ids[first:]):
                record_rules(storage, other, now)
            return now
    return None


def record_rules(storage: Storage, unit_id: str, rules: UnitRules) -> None:
    """Record ``rules`` in the file of a unit, unless the file already has rules. Earlier versions recorded none."""
    path = layout.unit_pairs(unit_id)
    with suppress(*_UNREADABLE):
        if UnitRules.recorded(storage.footer(path)[0]) is None:
            storage.write_table(path, storage.read_table(path), rules.as_footer())


def _cut(storage: Storage, pairs: list[NewPairs], unit_tokens: int) -> Iterator[tuple[pa.Table, int, list[str]]]:
    """Yield the rows, tokens and buckets of each unit. All units have about the same number of tokens."""
    total = sum(int(part.tokens.sum()) for part in pairs)
    target = total / max(1, -(-total // unit_tokens))
    parts: list[pa.Table] = []
    buckets: list[str] = []  # the buckets that the pairs in ``parts`` are from
    filled = 0  # tokens of all rows in ``parts``

    def read(part: NewPairs) -> pa.Table:
        table = with_columns_of(PAIRS, storage.read_table(part.path)).select(PAIRS.names)
        # No lock protects pair files: a parallel run of the same days may have written this file again.
        if digest_of(table["pair_id"].combine_chunks()) != part.digest:
            raise NotReadyError(
                f"the pairs in {storage.path(part.path)} were written again while units were planned: try again"
            )
        return table.replace_schema_metadata(None).take(pa.array(part.rows))

    filled_parts = [part for part in pairs if len(part.rows)]
    for part, table in zip(filled_parts, read_ahead(read, filled_parts), strict=True):
        ends = np.cumsum(part.tokens)  # cumulative estimated tokens of the file's rows
        start, before = 0, 0  # the file's first row that is in no unit yet, and the tokens of the rows before this row
        while (last := int(np.searchsorted(ends, before + target - filled))) < len(ends):
            tokens = filled + int(ends[last]) - before
            rows = pa.concat_tables([*parts, table.slice(start, last + 1 - start)])
            yield rows, tokens, [*buckets, bucket_of(part.path)]
            parts, buckets, filled, start, before = [], [], 0, last + 1, int(ends[last])
        if start < len(ends):
            parts.append(table.slice(start))
            buckets.append(bucket_of(part.path))
            filled += int(ends[-1]) - before
    if parts:
        yield pa.concat_tables(parts), filled, buckets
