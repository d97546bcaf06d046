"""A replay's pairs from the warehouse are split by bucket."""

from __future__ import annotations

from pathlib import Path

from capsfusion_tasks.pairing.buckets import bucket_numbers
from capsfusion_tasks.pairing.replay_pairs import split_pairs
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.planning.test_unit_files import pairs

REPLAY = Replay(name="manual__2026-11-13T00:00:00+00:00", fusion_id="f" * 12)


def test_pairs_lie_in_the_bucket_of_their_url_and_in_none_where_it_was_changed(tmp_path: Path) -> None:
    storage, settings = Storage(str(tmp_path)), Settings(scratch=tmp_path / "scratch")
    first, second = pairs(*range(20)), pairs(*range(20, 40))
    changed = first["image_url"].to_pylist()
    changed[7] = "u\ufffd7"
    first = first.set_column(1, first.schema.field(1), [changed])
    # A killed try left this file, so it must not count.
    storage.write_table(f"{layout.pairs_folder(REPLAY)}/00003.parquet", pairs(99))
    assert split_pairs([first, first.slice(0, 0), second], REPLAY, storage, settings, buckets=4) == 40
    found = {path: storage.read_table(path) for path in storage.files(layout.pairs_folder(REPLAY))}
    for path, table in found.items():
        name = Path(path).stem
        if name == layout.ANY_BUCKET:
            assert table["laion_hash"].to_pylist() == [7]
        else:
            assert set(bucket_numbers(table["image_url"], 4).tolist()) == {int(name)}
    rows = [row for table in found.values() for row in table.to_pylist()]
    assert sorted(rows, key=str) == sorted([*first.to_pylist(), *second.to_pylist()], key=str)
    assert not any((tmp_path / "scratch").iterdir())
