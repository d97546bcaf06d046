"""Random shards in random order: the join finds the same pairs as two nested loops."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pairing.test_join import DAYS, Area

pytestmark = pytest.mark.slow

URLS = st.sampled_from(["u1", "u2", "u3", " u1", "U1", "", " ", None])
TEXTS = st.sampled_from(["raw", "Raw", "raw ", "&amp;", "\x00", "", "\n", None])
CAPTIONS = st.sampled_from(["A car.", "A dog.", "", None])
SCORES = st.sampled_from([None, 0.1, 0.30000001, 0.5, 0.79, 0.9])

RAW_ROWS = st.lists(
    st.fixed_dictionaries({"URL": URLS, "TEXT": TEXTS, "similarity": SCORES, "punsafe": SCORES}), min_size=1, max_size=6
)
COCO_ROWS = st.lists(
    st.fixed_dictionaries({"URL": URLS, "TEXT": TEXTS, "top_caption": CAPTIONS, "pwatermark": SCORES}),
    min_size=1,
    max_size=6,
)
# One shard per side for each of three days.
ARRIVALS = st.lists(st.tuples(RAW_ROWS, COCO_ROWS), min_size=3, max_size=3)
HOW = st.sampled_from(["one after the other", "at the same time", "each twice"])

Row = dict[str, Any]


def blank(text: str | None) -> bool:
    return text is None or not text.strip()


def brute_force(raw: list[Row], coco: list[Row]) -> set[tuple[str, str, str]]:
    return {
        (a["URL"], a["TEXT"], b["top_caption"])
        for a, b in itertools.product(raw, coco)
        if not (blank(a["URL"]) or blank(a["TEXT"]) or blank(b["top_caption"]))
        and (a["URL"], a["TEXT"]) == (b["URL"], b["TEXT"])
        and (a["punsafe"] is None or a["punsafe"] < 0.5)
        and (b["pwatermark"] is None or b["pwatermark"] < 0.8)
    }


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ARRIVALS, HOW)
def test_no_pair_is_lost_and_none_is_found_twice_by_a_run(
    order: tuple[int, ...], shards: list[tuple[list[Row], list[Row]]], how: str
) -> None:
    """``order``: the order of the days' runs. An early day that runs last is a backfill."""
    with tempfile.TemporaryDirectory() as folder:
        area = Area(Path(folder))
        found: set[tuple[str, str, str]] = set()

        def pull(day: int) -> list[Any]:
            raw, coco = shards[day]
            return [area.put("laion_2b", f"raw{day}", raw), area.put("laion_coco", f"coco{day}", coco)]

        def join(day: int, new: list[Any]) -> None:
            pairs = area.join(DAYS[day], *new)
            assert len({pair["pair_id"] for pair in pairs}) == len(pairs)
            found.update((pair["image_url"], pair["laion_2b"], pair["laion_coco"]) for pair in pairs)

        if how == "at the same time":
            for day, new in [(day, pull(day)) for day in order]:
                join(day, new)
        else:
            for day in [*order, *(order if how == "each twice" else [])]:
                join(day, pull(day))
        everything = [[row for shard in shards for row in shard[side]] for side in range(2)]
        assert found == brute_force(*everything)
