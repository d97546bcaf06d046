"""The plan stage: new pairs become work units, cut by estimated tokens, one bucket of pairs in memory at a time."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import PAIRS, Replay, Unit
from capsfusion_tasks.settings import Interval
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# Estimated tokens of a row: measured with LLaMA's tokenizer on 10,000 published pairs, a prompt has 112 tokens of
# instruction, a caption comes out at 37.2 tokens on average, and captions have about 4 characters a token.
TEMPLATE_TOKENS = 112
CAPTION_TOKENS = 37
CHARACTERS_PER_TOKEN = 4

MAX_UNITS = 1024  # Airflow's limit on the tasks that one mapped task may become (core.max_map_length)
UNIT_SECONDS = 1800  # so that starting a rank, about a minute with a 13B, is little, and a lost unit not much
LONGEST_UNIT_SECONDS = 3600  # half of what a fuse task may take
UNIT_TOKENS_AT_FIRST = 400_000  # while no rate is measured

_BUCKETS = "capsfusion.buckets"  # in the footer of a unit's pairs: whose pairs it has


@dataclass(frozen=True)
class NewPairs:
    """Which rows of a file of pairs are to be fused: their numbers and estimated tokens, [rows] each.

    ``taken``: how many of the others are fused already, or about to be.
    """

    path: str
    rows: np.ndarray
    tokens: np.ndarray
    taken: int = 0


class PairsInFlight:
    """The pairs of units that are planned and not loaded, read by bucket: all of them are too many to hold."""

    def __init__(self, storage: Storage, unit_ids: Iterable[str]) -> None:
        self.storage = storage
        self._units: dict[str, list[str]] = defaultdict(list)  # bucket → the units with pairs of it
        for path in map(layout.unit_pairs, unit_ids):
            for bucket in storage.footer(path)[0][_BUCKETS].split():
                self._units[bucket].append(path)

    def of(self, path: str) -> pa.Array:
        """Those that may be in the file of pairs ``path``: pair_ids, binary(16)."""
        bucket = _bucket(path)
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
    rules: PullRules | None = None,
) -> list[NewPairs]:
    """The work's pairs that nobody has fused or is about to fuse, at most ``limit``, ordered by bucket and pair_id.

    ``is_known`` tells for pair_ids, [rows] binary(16), which the warehouse has (None: take them all). ``in_flight``
    are the units that are planned and not loaded. Raises InputError where pairs were made with other rules than
    ``rules``.
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


def _require_rules(where: str, schema: pa.Schema, rules: PullRules) -> None:
    made_with = PullRules.recorded({key.decode(): value.decode() for key, value in (schema.metadata or {}).items()})
    if made_with is not None and made_with != rules:
        raise InputError(f"{where} was paired with {made_with.against(rules)}: run its interval again from pull on")


def estimate_tokens(pairs: pa.Table) -> np.ndarray:
    """Estimated tokens of each row, prompt and caption, without a tokenizer: [rows] int64."""
    characters = pc.add(pc.utf8_length(pairs["laion_2b"]), pc.utf8_length(pairs["laion_coco"]))
    tokens: np.ndarray = characters.to_numpy().astype(np.int64) // CHARACTERS_PER_TOKEN
    return tokens + TEMPLATE_TOKENS + CAPTION_TOKENS


def choose_unit_tokens(total: int, tokens_per_second: float | None) -> int:
    """How many of ``total`` estimated tokens make a good unit, where one device does ``tokens_per_second`` of them.

    About half an hour's work; more where there would be over MAX_UNITS, but never over an hour's. While no rate is
    known units stay small: what is then left is planned by the next run, which knows it.
    """
    if tokens_per_second is None:
        return UNIT_TOKENS_AT_FIRST
    enough = -(-total // MAX_UNITS)
    good, longest = (int(seconds * tokens_per_second) for seconds in (UNIT_SECONDS, LONGEST_UNIT_SECONDS))
    return max(1, min(max(good, enough), longest))


def cut_units(
    storage: Storage,
    pairs: Iterable[NewPairs],
    work: Interval | Replay,
    fusion_id: str,
    unit_tokens: int,
    serial: int,
    rules: PullRules | None = None,
) -> list[Unit]:
    """Publish ``pairs`` as work units of about ``unit_tokens`` estimated tokens each, and return them.

    What goes beyond MAX_UNITS is left for another run. ``serial`` is the number of units that the work had before
    under this fusion: a pair that is fused again must not come back as a unit of the same name. The units note
    ``rules``, those of their pairs.
    """
    footer = rules.as_footer() if rules else {}
    units: list[Unit] = []
    begins = f"{work.start:%Y%m%d}" if isinstance(work, Interval) else "replay"
    for table, tokens, buckets in _cut(storage, list(pairs), unit_tokens):
        if len(units) == MAX_UNITS:
            break
        digest = hashlib.blake2b(f"{work.key} {fusion_id} {serial + len(units)}".encode(), digest_size=4)
        for pair_id in table["pair_id"].to_pylist():
            digest.update(pair_id)
        unit_id = f"{begins}-{fusion_id[:6]}-{serial + len(units):04d}-{digest.hexdigest()}"
        storage.write_table(layout.unit_pairs(unit_id), table, {_BUCKETS: " ".join(buckets), **footer})
        units.append(Unit(unit_id=unit_id, fusion_id=fusion_id, rows=table.num_rows, tokens=tokens))
    return units


def rules_of(storage: Storage, unit_id: str) -> PullRules | None:
    """The rules of the unit's pairs; None: none are noted, as for a replay's unit, or the file cannot be read."""
    try:
        return PullRules.recorded(storage.footer(layout.unit_pairs(unit_id))[0])
    except (pa.ArrowException, FileNotFoundError):  # fusing the unit says so
        return None


def record_rules(storage: Storage, unit_id: str, rules: PullRules) -> None:
    """Note ``rules`` with the pairs of a unit that an older version planned."""
    path = layout.unit_pairs(unit_id)
    with suppress(pa.ArrowException, FileNotFoundError):
        storage.write_table(path, storage.read_table(path), rules.as_footer())


def _cut(storage: Storage, pairs: list[NewPairs], unit_tokens: int) -> Iterator[tuple[pa.Table, int, list[str]]]:
    """Units' rows, tokens and buckets. All have about equal tokens, so that none is a small rest."""
    total = sum(int(part.tokens.sum()) for part in pairs)
    target = total / max(1, -(-total // unit_tokens))
    parts: list[pa.Table] = []
    buckets: list[str] = []  # of ``parts``
    filled = 0  # tokens of ``parts``
    for part in pairs:
        table = storage.read_table(part.path).replace_schema_metadata(None).take(pa.array(part.rows))
        ends = np.cumsum(part.tokens)  # tokens of the file's rows up to each
        start, before = 0, 0  # the first row that is in no unit, and the tokens of those before it
        while (last := int(np.searchsorted(ends, before + target - filled))) < len(ends):
            tokens = filled + int(ends[last]) - before
            rows = pa.concat_tables([*parts, table.slice(start, last + 1 - start)])
            yield rows, tokens, [*buckets, _bucket(part.path)]
            parts, buckets, filled, start, before = [], [], 0, last + 1, int(ends[last])
        if start < len(ends):
            parts.append(table.slice(start))
            buckets.append(_bucket(part.path))
            filled += int(ends[-1]) - before
    if parts:
        yield pa.concat_tables(parts), filled, buckets


def _bucket(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".parquet")
