"""Tests that pairs of several units are found, in little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep.listing import READERS
from capsfusion_tasks.upkeep.repeated_pairs import repeated_pairs


def write(storage: Storage, unit_id: str, pair_ids: list[bytes]) -> None:
    storage.write_table(layout.unit_pairs(unit_id), pa.table({"pair_id": pa.array(pair_ids, pa.binary(16))}))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


def test_each_unit_has_those_of_its_pairs_that_another_has_too(settings: Settings) -> None:
    storage = Storage(settings.staging_uri)
    # Ids that differ only in the first bit, in the last bit, or in the order of their halves.
    low, high, zero, other = bytes(15) + b"\1", b"\x80" + bytes(15), bytes(16), bytes(8) + b"\x80" + bytes(7)
    for unit_id, pair_ids in {"a": [zero, high], "b": [low, other], "c": [high, low, b"\xff" * 16], "d": []}.items():
        write(storage, unit_id, pair_ids)
    assert repeated_pairs(storage, settings, ["a", "b", "c", "d"]) == [[high], [low], [low, high], []]
    assert repeated_pairs(storage, settings, ["a", "b", "d"]) == [[], [], []]
    assert repeated_pairs(storage, settings, []) == []


def test_the_ids_of_all_units_are_never_in_memory_together(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, rows = Storage(settings.staging_uri), 2_000
    units = [f"u{number}" for number in range(6 * READERS)]
    numbers = np.random.default_rng(0)
    for unit_id in units:
        write(storage, unit_id, [numbers.bytes(16) for _ in range(rows)])
    before, read, held = pa.total_allocated_bytes(), Storage.read_table, list[int]()

    def watched(self: Storage, path: str, columns: list[str] | None = None) -> pa.Table:
        held.append(pa.total_allocated_bytes() - before)
        return read(self, path, columns)

    monkeypatch.setattr(Storage, "read_table", watched)
    assert repeated_pairs(storage, settings, units) == [[]] * len(units)
    assert max(held) < 3 * READERS * 16 * rows
