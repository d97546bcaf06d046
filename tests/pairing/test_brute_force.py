"""With random shards in any order, joins and image results give the same pairs as nested loops over all rows."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from capsfusion_tasks.pairing.columns import Counts
from capsfusion_tasks.pairing.image_results import ImageResults, batches_of, publish_batch, read_results
from capsfusion_tasks.planning.new_pairs import count_new_pairs, new_pairs
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
    """Days run in the order ``order``. An early day that runs late is like a backfill."""
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


STATUSES = st.sampled_from([None, "success", "failed_to_download", "failed_to_resize", "?"])
IMAGES = st.sampled_from(["u1", "u2", "u3", "u4"])
# Rows of a side on a day: URL, raw caption, and the download status in the release.
DATED = st.lists(st.tuples(IMAGES, st.sampled_from(["raw", "Raw"]), STATUSES), min_size=1, max_size=5)
# A file of img2dataset's results: URL and download status.
RESULTS = st.lists(st.tuples(IMAGES, STATUSES), min_size=1, max_size=4)
# The order in which days and files of results arrive.
ORDERS = st.permutations(["day 0", "day 1", "day 2", "results 0", "results 1"])

Image = tuple[str, str, str | None]
Key = tuple[str, str]  # URL and raw caption: identifies a pair here


def is_gone(*said: str | None) -> bool | None:
    """Whether an image is gone according to these download statuses. None if unknown."""
    if {"success", "failed_to_resize"} & {*said}:
        return False
    return True if "failed_to_download" in said else None


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(
    days=[
        ([("u1", "raw", None)], [("u1", "raw", None)]),
        ([("u3", "raw", None)], [("u3", "raw", "failed_to_download")]),
        ([("u1", "raw", None)], [("u3", "raw", None)]),
    ],
    results=[[("u1", None)], [("u1", None)]],
    order=["day 0", "day 1", "day 2", "results 0", "results 1"],
)
@given(st.lists(st.tuples(DATED, DATED), min_size=3, max_size=3), st.lists(RESULTS, min_size=2, max_size=2), ORDERS)
def test_image_results_leave_out_the_same_pairs_as_nested_loops_in_any_order(
    days: list[tuple[list[Image], list[Image]]], results: list[list[tuple[str, str | None]]], order: list[str]
) -> None:
    """Pull, join and plan each day with the results that arrived before it. At the end, plan all days again."""
    with tempfile.TemporaryDirectory() as folder:
        area = Area(Path(folder), gone_images="skip")
        raws: list[Image] = []
        cocos: list[Image] = []
        known: list[tuple[str, str | None]] = []
        # Day → its pairs, and whether their images are gone according to the releases' statuses (None: unknown).
        joined: dict[int, dict[Key, bool | None]] = {}
        planned: set[Key] = set()
        names: dict[bytes, Key] = {}
        of_rows: dict[tuple[str, str, str], str | None] = {}  # (side, URL, text) → status in the release

        def gone_of(day: int) -> dict[Key, bool]:
            """For each unplanned pair of the day, whether its image is gone. Checks all results so far."""
            found = {}
            for key, of_release in joined[day].items():
                of_results = is_gone(*(status for url, status in known if url == key[0]))
                if key not in planned:
                    found[key] = bool(of_release if of_results is None else of_results)
            return found

        def known_ids(ids: pa.Array) -> pa.Array:
            return pa.array([names[pair_id] in planned for pair_id in ids.to_pylist()], pa.bool_())

        def plan(day: int) -> None:
            expected = gone_of(day)
            found = new_pairs(area.storage, DAYS[day], known_ids, [], None, images=images())
            new = {
                names[area.storage.read_table(part.path)["pair_id"][row].as_py()] for part in found for row in part.rows
            }
            assert new == {key for key, gone in expected.items() if not gone}
            assert sum(part.gone.rows for part in found) == sum(expected.values())
            planned.update(new)

        def images() -> ImageResults:
            return ImageResults(area.storage, tuple(batches_of(area.storage, {})))

        for what, number in ((name, int(digit)) for name, digit in map(str.split, order)):
            if what == "results":
                put_results(area, f"results{number}", results[number])
                known += results[number]
                continue
            # A row repeated on a later day keeps its first status, because a join does not read the earlier row.
            raw, coco = (
                [(u, t, of_rows.setdefault((side, u, t), said)) for u, t, said in rows]
                for side, rows in zip(("raw", "coco"), days[number], strict=True)
            )
            raws += raw
            cocos += coco
            new = [
                area.put("laion_2b", f"raw{number}", [{"URL": u, "TEXT": t, "status": s} for u, t, s in raw]),
                area.put(
                    "laion_coco",
                    f"coco{number}",
                    [{"URL": u, "TEXT": t, "top_caption": "A car.", "status": s} for u, t, s in coco],
                ),
            ]
            for pair in area.join(DAYS[number], *new):
                names[pair["pair_id"]] = pair["image_url"], pair["laion_2b"]
            joined[number] = {
                (url, text): is_gone(*(said for a, b, said in [*raws, *cocos] if (a, b) == (url, text)))
                for url, text in {row[:2] for row in raws} & {row[:2] for row in cocos}
                if (url, text) in {row[:2] for row in [*raw, *coco]}
            }
            plan(number)
        to_fuse, left_out = count_new_pairs(area.storage, DAYS, known_ids, [], images=images())
        waiting: dict[Key, bool] = {}
        for day in range(3):
            for key, gone in gone_of(day).items():
                waiting[key] = waiting.get(key, True) and gone
        assert (to_fuse.rows, left_out.rows) == (
            list(waiting.values()).count(False),
            list(waiting.values()).count(True),
        )
        for day in range(3):
            plan(day)
        # The last plans used all results. So the image of each pair that is still unplanned must be gone.
        final = {key: gone for day in range(3) for key, gone in gone_of(day).items()}
        assert all(final.values())


def put_results(area: Area, name: str, rows: list[tuple[str, str | None]]) -> None:
    file = area.folder / f"{name}.parquet"
    pq.write_table(
        pa.table({"url": [url for url, _ in rows], "status": pa.array([s for _, s in rows], pa.string())}), file
    )
    counts = Counts()
    with pa.memory_map(str(file)) as stream, tempfile.TemporaryDirectory() as scratch:
        tables = read_results(stream, name, area.buckets, 0, counts)
        publish_batch(area.storage, Path(scratch), {}, tables, {0: (name, counts)})
