"""A URL with very many rows makes no more pairs than the limit allows, in any order of days."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from capsfusion_tasks.pairing.join import left_out_of, pair_bucket
from capsfusion_tasks.pairing.url_limit import LeftOut
from capsfusion_tasks.schemas import Shard
from tests.pairing.test_join import DAYS, Area, coco, raw

PLACEHOLDER = "http://cdn.shop.example/placeholder.gif"


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path, join_on="url", url_pairs_max=6, buckets=1)


def put(area: Area, day: int, raws: range, cocos: range) -> list[Shard]:
    """Add a shard on each side: rows with the URL PLACEHOLDER, and one row with another URL, which makes a pair."""
    a = [raw(PLACEHOLDER, f"text {n}") for n in raws]
    b = [coco(PLACEHOLDER, f"Caption {n}.", "") for n in cocos]
    return [
        area.put("laion_2b", f"a{day}", [*a, *a, raw(f"u{day}")]),
        area.put("laion_coco", f"b{day}", [*b, coco(f"u{day}")]),
    ]


def left_out(area: Area, day: int) -> LeftOut:
    return left_out_of(DAYS[day], area.storage)


def test_a_url_over_the_limit_is_left_out_counted_and_named(area: Area) -> None:
    pairs = area.join(DAYS[0], *put(area, 0, range(3), range(3)))
    assert [pair["image_url"] for pair in pairs] == ["u0"]
    said = left_out(area, 0)
    assert (said.urls, said.laion_2b, said.laion_coco, said.pairs) == (1, 3, 3, 9)
    assert said.text.endswith(f"the largest: {PLACEHOLDER} (3 laion_2b rows x 3 laion_coco rows)")


def test_rows_that_come_later_count_with_those_of_earlier_days(area: Area) -> None:
    assert len(area.join(DAYS[0], *put(area, 0, range(2), range(2)))) == 1 + 4
    # Only raw rows are new. The limit applies to the sum of old and new rows.
    new = area.put("laion_2b", "a1", [raw(PLACEHOLDER, f"text {n}") for n in range(1, 4)])
    assert area.join(DAYS[1], new) == []
    said = left_out(area, 1)
    assert (said.urls, said.laion_2b, said.laion_coco, said.pairs) == (1, 3, 0, 6)
    assert area.join(DAYS[2], *put(area, 2, range(0), range(0)))  # no new row has the URL PLACEHOLDER
    assert left_out(area, 2) == LeftOut()


def test_no_order_of_days_makes_more_pairs_of_a_url_than_the_limit(tmp_path: Path) -> None:
    arrivals = [(range(2), range(2)), (range(2), range(2, 3)), (range(2, 9), range(3, 9))]
    for number, order in enumerate(itertools.permutations(range(3))):
        (folder := tmp_path / str(number)).mkdir()
        area = Area(folder, join_on="url", url_pairs_max=6, buckets=1)
        made: set[bytes] = set()
        for day in [*order, *order]:  # each day twice
            made |= {pair["pair_id"] for pair in area.join(DAYS[day], *put(area, day, *arrivals[day]))}
        assert len(made) - 3 <= 6, order
        if order[-1] == 2:  # day 2 runs last, when days 0 and 1 have already made 6 pairs
            assert len(made) - 3 == 6


def test_passes_of_a_bucket_count_together(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = put(area, 0, range(3), range(3))
    monkeypatch.setattr("capsfusion_tasks.pairing.join._PASS_BYTES", 500)
    area.join(DAYS[0], *shards)
    assert left_out(area, 0).pairs == 9


@pytest.mark.parametrize("options", [{"join_on": "url_text"}, {"laion2b": "none"}], ids=str)
def test_rows_that_match_on_text_have_no_limit(tmp_path: Path, options: dict[str, str]) -> None:
    area = Area(tmp_path, url_pairs_max=1, **options)
    a = area.put("laion_2b", "a", [raw(PLACEHOLDER)])
    b = area.put("laion_coco", "b", [coco(PLACEHOLDER, f"Caption {n}.") for n in range(5)])
    assert len(area.join(DAYS[0], a, b)) == 5


def test_many_rows_of_a_url_need_no_memory_for_their_pairs(tmp_path: Path) -> None:
    area = Area(tmp_path, join_on="url", pair_memory=96)
    a = area.put("laion_2b", "a", [raw(PLACEHOLDER, f"text {n}") for n in range(3_000)])
    b = area.put("laion_coco", "b", [coco(PLACEHOLDER, f"Caption {n}.") for n in range(3_000)])
    ids = {a.shard_id, b.shard_id}
    joined = [pair_bucket(bucket, ids, DAYS[0], area.storage, area.settings) for bucket in range(3)]
    assert sum(one.pairs for one in joined) == 0
    assert LeftOut.total(one.left_out for one in joined).pairs == 9_000_000
