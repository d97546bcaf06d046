from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.in_flight import PairsInFlight
from capsfusion_tasks.planning.new_pairs import NewPairs, new_pairs
from capsfusion_tasks.planning.pair_files import digest_of
from capsfusion_tasks.planning.tokens import DEFAULT
from capsfusion_tasks.planning.unit_files import choose_unit_tokens, common_rules, cut_units, rules_of
from capsfusion_tasks.pull_rules import UnitRules
from capsfusion_tasks.schemas import PAIRS, Unit
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))
BEFORE = Interval(start=START - timedelta(days=1), end=START)


def pairs(*numbers: int, words: int = 5) -> pa.Table:
    rows = [
        {
            "pair_id": f"{n:016d}".encode(),
            "image_url": f"u{n}",
            "laion_2b": "word " * words,
            "laion_coco": "A caption.",
            "laion_hash": n,
            "laion_2b_shard": "a",
            "laion_2b_row": n,
            "laion_coco_shard": "b",
            "laion_coco_row": n,
        }
        for n in numbers
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS)


def nothing_known(ids: pa.Array) -> pa.Array:
    return pa.array([False] * len(ids))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    storage.write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", pairs(0, 1, 2))
    storage.write_table(f"{layout.pairs_folder(DAY)}/00001.parquet", pairs(3, 4))
    return storage


def hashes(storage: Storage, found: list[NewPairs]) -> list[int]:
    return [storage.read_table(part.path)["laion_hash"][int(row)].as_py() for part in found for row in part.rows]


def all_of(path: str, table: pa.Table) -> NewPairs:
    """All pairs of the file ``path``, which has the rows of ``table``."""
    ids = table["pair_id"].combine_chunks()
    return NewPairs(path, np.arange(table.num_rows), DEFAULT.of(table), digest_of(ids))


def cut(
    storage: Storage, table: pa.Table, unit_tokens: int, serial: int = 0, max_units: int | None = None
) -> list[Unit]:
    """Store ``table`` in files of seven rows, then cut the files into units."""
    found = []
    for start in range(0, table.num_rows, 7):
        part, path = table.slice(start, 7), f"some/{start}.parquet"
        storage.write_table(path, part)
        found.append(all_of(path, part))
    return cut_units(storage, found, DAY, "f" * 12, unit_tokens, serial, max_units=max_units)


def test_pairs_that_the_warehouse_has_are_dropped(storage: Storage) -> None:
    known = set(pairs(1, 4)["pair_id"].to_pylist())
    found = new_pairs(
        storage, DAY, lambda ids: pa.array([i in known for i in ids.to_pylist()]), in_flight=[], limit=None
    )
    assert hashes(storage, found) == [0, 2, 3]
    assert [part.tokens.tolist() for part in found] == [[147, 147], [147]]
    assert [part.taken for part in found] == [1, 1]


def test_pairs_of_units_in_flight_are_dropped(storage: Storage) -> None:
    for bucket, table in {"00000": pairs(2, 7), "00001": pairs(3, 8, 9)}.items():
        storage.write_table(f"{layout.pairs_folder(BEFORE)}/{bucket}.parquet", table)
    before = new_pairs(storage, BEFORE, nothing_known, in_flight=[], limit=None)
    units = cut_units(storage, before, BEFORE, "f" * 12, unit_tokens=3 * 147, serial=0)
    assert [unit.rows for unit in units] == [3, 2], "the first has pairs of both buckets"
    in_flight = [unit.unit_id for unit in units]
    found = new_pairs(storage, DAY, nothing_known, in_flight, limit=None)
    assert hashes(storage, found) == [0, 1, 4]
    assert [part.taken for part in found] == [1, 1]


@pytest.mark.parametrize(("batch_rows", "reads"), [(100, 1), (3, 2)])
def test_a_batch_of_buckets_reads_each_unfinished_unit_and_asks_the_warehouse_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, batch_rows: int, reads: int
) -> None:
    for bucket, table in {"00000": pairs(2, 7), "00001": pairs(3, 8, 9)}.items():
        storage.write_table(f"{layout.pairs_folder(BEFORE)}/{bucket}.parquet", table)
    before = new_pairs(storage, BEFORE, nothing_known, in_flight=[], limit=None)
    [unit] = cut_units(storage, before, BEFORE, "f" * 12, unit_tokens=10**6, serial=0)
    read: list[str] = []
    read_table = Storage.read_table

    def reading(self: Storage, path: str, columns: list[str] | None = None) -> pa.Table:
        read.append(path)
        return read_table(self, path, columns)

    def asked(ids: pa.Array) -> pa.Array:
        read.append("warehouse")
        return nothing_known(ids)

    monkeypatch.setattr(Storage, "read_table", reading)
    monkeypatch.setattr("capsfusion_tasks.planning.pair_files.BATCH_ROWS", batch_rows)
    found = new_pairs(storage, DAY, asked, [unit.unit_id], limit=None)
    assert [read.count(what) for what in (layout.unit_pairs(unit.unit_id), "warehouse")] == [reads, reads]
    monkeypatch.undo()
    assert hashes(storage, found) == [0, 1, 4]


def test_a_unit_without_its_file_stops_the_plan_with_what_to_do(storage: Storage) -> None:
    with pytest.raises(NotReadyError, match=r"unfinished unit gone is missing: .*check --repair"):
        new_pairs(storage, DAY, nothing_known, ["gone"], limit=None)


def test_replacing_takes_known_pairs_too(storage: Storage) -> None:
    assert hashes(storage, new_pairs(storage, DAY, lambda ids: None, in_flight=[], limit=None)) == [0, 1, 2, 3, 4]


def test_pairs_of_no_bucket_are_looked_for_in_all(storage: Storage) -> None:
    storage.write_table(f"some/{layout.ANY_BUCKET}.parquet", pairs(1, 3, 9))
    table = storage.read_table(f"some/{layout.ANY_BUCKET}.parquet")
    found = all_of(f"some/{layout.ANY_BUCKET}.parquet", table)
    [unit] = cut_units(storage, [found], BEFORE, "f" * 12, unit_tokens=10**6, serial=0)
    assert hashes(storage, new_pairs(storage, DAY, nothing_known, [unit.unit_id], limit=None)) == [0, 2, 4]
    days = cut_units(storage, new_pairs(storage, DAY, nothing_known, [], None), DAY, "f" * 12, 10**6, serial=0)
    in_flight = PairsInFlight(storage, [day.unit_id for day in days])
    ids = table["pair_id"].combine_chunks()
    assert in_flight.contain(ids, {layout.ANY_BUCKET}).tolist() == [True, True, False]


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 99])
def test_a_limit_takes_so_many_and_no_more(storage: Storage, limit: int) -> None:
    found = new_pairs(storage, DAY, nothing_known, in_flight=[], limit=limit)
    assert hashes(storage, found) == list(range(5))[:limit]
    assert any(part.over_limit for part in found) == (limit < 5)


def test_pairs_that_are_known_do_not_exceed_a_limit(storage: Storage) -> None:
    late = set(pairs(3, 4)["pair_id"].to_pylist())
    found = new_pairs(storage, DAY, lambda ids: pa.array([i in late for i in ids.to_pylist()]), [], limit=3)
    assert hashes(storage, found) == [0, 1, 2]
    assert not any(part.over_limit for part in found)
    assert sum(part.taken for part in found) == 2


def test_units_hold_each_pair_once_in_order_and_about_as_many_tokens(storage: Storage) -> None:
    table = pairs(*range(100))
    total = int(DEFAULT.of(table).sum())
    units = cut(storage, table, unit_tokens=total // 4 + 1)
    assert [unit.rows for unit in units] == [25, 25, 25, 25]
    parts = [storage.read_table(layout.unit_pairs(unit.unit_id)) for unit in units]
    assert pa.concat_tables(parts).equals(table)
    assert sum(unit.tokens for unit in units) == total


def test_a_row_of_more_tokens_than_a_unit_is_a_unit(storage: Storage) -> None:
    units = cut(storage, pairs(1, 2, words=5000), unit_tokens=100)
    assert [unit.rows for unit in units] == [1, 1]


def test_only_the_new_rows_of_a_file_become_units(storage: Storage) -> None:
    known = set(pairs(1, 4)["pair_id"].to_pylist())
    found = new_pairs(storage, DAY, lambda ids: pa.array([i in known for i in ids.to_pylist()]), [], None)
    units = cut_units(storage, found, DAY, "f" * 12, unit_tokens=10**6, serial=0)
    [unit] = units
    assert storage.read_table(layout.unit_pairs(unit.unit_id)).equals(pairs(0, 2, 3))


@pytest.mark.parametrize("now", [(1, 2, 4, 6), (6, 4, 2), (2, 4, 8)], ids=["more", "another order", "others"])
def test_pairs_that_were_written_again_while_planning_are_not_cut(storage: Storage, now: tuple[int, ...]) -> None:
    path = f"{layout.pairs_folder(BEFORE)}/00000.parquet"
    storage.write_table(path, pairs(2, 4, 6))
    found = new_pairs(storage, BEFORE, lambda ids: pa.array([i == b"%016d" % 2 for i in ids.to_pylist()]), [], None)
    storage.write_table(path, pairs(*now))
    with pytest.raises(NotReadyError, match=r"pairs/00000\.parquet were written again .*: try again"):
        cut_units(storage, found, BEFORE, "f" * 12, unit_tokens=10**6, serial=0)
    storage.write_table(path, pairs(2, 4, 6))
    [unit] = cut_units(storage, found, BEFORE, "f" * 12, unit_tokens=10**6, serial=0)
    assert storage.read_table(layout.unit_pairs(unit.unit_id)).equals(pairs(4, 6))


def test_a_digest_of_a_slice_is_of_its_own_ids() -> None:
    ids = pairs(1, 2, 3, 4)["pair_id"].combine_chunks()
    assert digest_of(ids.slice(1, 2)) == digest_of(pairs(2, 3)["pair_id"].combine_chunks())
    assert digest_of(ids.slice(1, 0)) == digest_of(pairs()["pair_id"].combine_chunks())


RULES, OTHER_RULES = (UnitRules(limit, 0.8, "keep", "url_text") for limit in (0.5, 0.1))


def test_a_file_that_cannot_be_read_does_not_count_as_one_without_record(storage: Storage, tmp_path: Path) -> None:
    for name in "abcd":
        storage.write_table(layout.unit_pairs(name), pairs(1), RULES.as_footer())
    (tmp_path / layout.unit_pairs("a")).write_bytes(b"damaged")
    storage.delete(layout.unit_pairs("b"))
    assert common_rules(storage, "abcd", OTHER_RULES) == RULES
    assert [rules_of(storage, name) for name in "abcd"] == [None, None, RULES, RULES]
    assert common_rules(storage, "ab", OTHER_RULES) is None


def test_rules_are_recorded_only_where_there_is_no_record(storage: Storage) -> None:
    for name, footer in {"a": {}, "b": RULES.as_footer(), "c": {}}.items():
        storage.write_table(layout.unit_pairs(name), pairs(1), footer)
    assert common_rules(storage, "abc", OTHER_RULES) == OTHER_RULES
    assert [rules_of(storage, name) for name in "abc"] == [OTHER_RULES, RULES, OTHER_RULES]


def test_no_run_has_more_units_than_airflow_maps(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsfusion_tasks.planning.unit_files.MAX_UNITS", 3)
    units = cut(storage, pairs(*range(50)), unit_tokens=5 * 147)
    assert [unit.rows for unit in units] == [5, 5, 5]
    assert [unit.rows for unit in cut(storage, pairs(*range(50)), unit_tokens=5 * 147, max_units=2)] == [5, 5]
    assert choose_unit_tokens(10**6, 1000.0, max_units=3) == 1_800_000  # tokens that take half an hour
    assert choose_unit_tokens(9 * 10**6, 1000.0, max_units=3) == 3_000_000


@pytest.mark.parametrize(
    ("total", "rate", "expected"),
    [
        (10_000, None, 400_000),
        (1024 * 500_000, None, 400_000),
        (10_000_000, 200.0, 360_000),
        (1024 * 500_000, 200.0, 500_000),
        (1024 * 10_000_000, 200.0, 720_000),
        (0, 0.0001, 1),
    ],
    ids=["first run", "first run of many", "half an hour", "more for 1,024", "never over an hour", "hardly any"],
)
def test_a_unit_is_half_an_hour_of_work(total: int, rate: float | None, expected: int) -> None:
    assert choose_unit_tokens(total, rate) == expected


def test_nothing_new_makes_no_unit(storage: Storage) -> None:
    assert cut(storage, pairs(), unit_tokens=100) == []


def test_units_are_named_by_what_is_in_them_and_when(storage: Storage) -> None:
    def name(*numbers: int, serial: int = 0) -> str:
        return cut(storage, pairs(*numbers), 10**6, serial)[0].unit_id

    assert name(1, 2) == name(1, 2)
    assert len({name(1, 2), name(1, 3), name(1, 2, serial=1)}) == 3
    assert name(1).startswith("20261110-")
