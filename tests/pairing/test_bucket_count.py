from __future__ import annotations

from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.bucket_count import bucket_count, choose_bucket_count
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("source_bytes", "buckets"),
    [(0, 16), (GB, 16), (2 * GB, 32), (10 * GB, 256), (540 * GB, 2048), (10_000 * GB, 2048)],
)
def test_larger_sources_get_more_buckets(source_bytes: int, buckets: int) -> None:
    assert choose_bucket_count(source_bytes) == buckets


def test_the_number_stays_what_it_was_when_the_sources_grow(tmp_path: Path) -> None:
    storage, settings = Storage(str(tmp_path)), load_settings()
    assert bucket_count(storage, settings, lambda: 2 * GB) == 32
    assert bucket_count(storage, settings, lambda: 100 * GB) == 32
    assert bucket_count(storage, settings) == 32


def test_a_number_that_is_set_wins_over_the_sources_size(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert bucket_count(storage, load_settings(buckets=5), lambda: 100 * GB) == 5
    with pytest.raises(InputError, match="5 buckets, but CAPSFUSION_BUCKETS is 6: set the variable to 5 or auto"):
        bucket_count(storage, load_settings(buckets=6))


def test_a_damaged_number_is_not_chosen_again(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    assert bucket_count(storage, load_settings(buckets=5)) == 5
    (tmp_path / "buckets/config.json").write_bytes(b"")
    with pytest.raises(InputError, match=r'config\.json is damaged: expected {"buckets": N}. Write this text into it'):
        bucket_count(storage, load_settings(), lambda: GB)


def test_without_discovery_there_is_nothing_to_choose_by(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no buckets yet: run the discover step for an interval first"):
        bucket_count(Storage(str(tmp_path)), load_settings())
