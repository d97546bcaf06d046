"""Joins that use lookups find the same pairs as nested loops over all rows, in any order of days and after kills."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing import bucket_side, compaction, lookups, pulled
from capsfusion_tasks.pairing.join import pair_bucket
from capsfusion_tasks.pull_rules import PullRules
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.staging.storage import Storage
from tests.pairing.killed_compaction import compact_and_die
from tests.pairing.test_brute_force import brute_force
from tests.pairing.test_join import Area

START = datetime(2026, 11, 1, tzinfo=UTC)
DAYS = [Interval(start=START + timedelta(days=n), end=START + timedelta(days=n + 1)) for n in range(20)]
NEW_ROWS = 40

Row = dict[str, Any]
Made = set[tuple[str, str, str]]


@pytest.fixture(autouse=True)
def lookups_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits, so that lookups are made and used even for a few days with few rows."""
    monkeypatch.setattr(compaction, "_FEW_FILES", 1)
    monkeypatch.setattr(compaction, "_FEW_BYTES", 0)
    monkeypatch.setattr(compaction, "_MERGED", 2)
    monkeypatch.setattr(bucket_side, "_SAVES_FROM", 0.0)


def arrivals(days: int, seed: int = 0) -> list[tuple[list[Row], list[Row]]]:
    """Raw and synthetic rows of each day. Days share URLs and texts; some texts have unusual characters."""
    rng = random.Random(seed)
    texts = ["raw", "Raw", "raw ", "&amp;", "\x00", 'a "quote" \\', "日本\u2028", "\ufffd", " ", None]
    scores = [None, 0.1, 0.30000001, 0.49, 0.5]

    def row(**more: Any) -> Row:
        url = f"http://img.example.org/{rng.randrange(NEW_ROWS)}.jpg"
        return {"URL": url, "TEXT": rng.choice(texts), "punsafe": rng.choice(scores), "pwatermark": 0.25, **more}

    return [
        (
            [row(similarity=rng.choice(scores)) for _ in range(NEW_ROWS)],
            [row(top_caption=f"Caption {rng.randrange(4)}.", punsafe=None) for _ in range(NEW_ROWS)],
        )
        for _ in range(days)
    ]


def pull(area: Area, day: int, rows: tuple[list[Row], list[Row]]) -> list[Shard]:
    return [area.put("laion_2b", f"raw{day:02}", rows[0]), area.put("laion_coco", f"coco{day:02}", rows[1])]


def join(area: Area, day: int, shards: list[Shard]) -> Made:
    return {(pair["image_url"], pair["laion_2b"], pair["laion_coco"]) for pair in area.join(DAYS[day], *shards)}


def all_of(days: list[tuple[list[Row], list[Row]]]) -> Made:
    raw, coco = ([row for day in days for row in day[side]] for side in (0, 1))
    return brute_force(raw, coco)


@pytest.mark.slow
def test_lookups_on_s3_find_the_same_pairs(tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_REMOTE_GAP", 200)
    area, days = Area(tmp_path, buckets=1), arrivals(4)
    area.storage = Storage(f"{s3_bucket}/pairing/lookups")
    found: Made = set()
    for day, rows in enumerate(days):
        found |= join(area, day, pull(area, day, rows))
    assert found == all_of(days)
    assert any(file.path.endswith(".rows") for file in area.storage.tree())


def files(area: Area, ending: str) -> list[Path]:
    return sorted(Path(area.storage.path("lookups")).glob(f"*/*/*{ending}"))


@pytest.mark.parametrize("order", ["backwards", "shuffled"])
def test_lookups_lose_no_pair_and_make_none_up(tmp_path: Path, order: str) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(6)
    found: Made = set()
    numbers = list(range(len(days)))
    numbers.reverse() if order == "backwards" else random.Random(1).shuffle(numbers)
    for day in numbers:
        found |= join(area, day, pull(area, day, days[day]))
    assert found == all_of(days)
    assert files(area, ".json")
    # A rerun of a day finds the day's pairs with all other days, even if the day's own rows have moved to lookups.
    again = join(area, numbers[2], pull(area, numbers[2], days[numbers[2]]))
    assert found >= again >= all_of([days[numbers[2]]])


def test_pairs_come_with_the_scores_and_the_rows_that_reading_everything_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days, pairs = arrivals(5), []
    for kind, few in {"lookups": 0, "files": 1 << 30}.items():
        (folder := tmp_path / kind).mkdir()
        monkeypatch.setattr(compaction, "_FEW_BYTES", few)
        monkeypatch.setattr(compaction, "_FEW_FILES", few)
        area = Area(folder, buckets=1)
        pairs.append([area.join(DAYS[day], *pull(area, day, rows)) for day, rows in enumerate(days)])
        assert bool(files(area, ".json")) == (kind == "lookups")
    assert pairs[0] == pairs[1]


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "what"),
    [(Storage, "publish"), (lookups.Lookup, "publish"), (compaction, "_merged"), (compaction, "_delete_unused")],
    ids=["before the rows", "before the mark", "before merging", "before deleting"],
)
def test_a_kill_while_a_lookup_is_made_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, what: str
) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(5)
    found: Made = set()
    kills = 0
    for day, rows in enumerate(days):
        shards = pull(area, day, rows)
        with monkeypatch.context() as patched:
            patched.setattr(where, what, killed)
            try:
                compacted(area, shards)
            except KeyboardInterrupt:
                kills += 1
        found |= join(area, day, shards)
    assert kills
    assert found == all_of(days)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "call"), [("the rows", 2), ("the mark", 1), ("merging", 1), ("deleting", 2)])
def test_a_process_that_is_killed_while_it_compacts_loses_nothing(tmp_path: Path, point: str, call: int) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(6)
    found: Made = set()
    for day, rows in enumerate(days[:-1]):
        found |= join(area, day, pull(area, day, rows))
    last = pull(area, 5, days[5])
    process = multiprocessing.get_context("spawn").Process(target=compact_and_die, args=(tmp_path, 1, point, call))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert found | join(area, 5, last) == all_of(days)
    compacted(area, [])
    assert join(area, 6, last) == join_again(days[5], days)


def compacted(area: Area, shards: list[Shard]) -> None:
    """Compact each bucket, as a join does before it reads the bucket."""
    ids = {shard.shard_id for shard in shards}
    for bucket in range(area.buckets):
        for side in ("laion_2b", "laion_coco"):
            rules = PullRules.of(area.settings)
            compaction.compact(bucket_side.BucketSide.of(area.storage, side, bucket, ids, rules), 1)  # type: ignore[arg-type]


def test_joins_beside_compaction_find_all_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run makes, merges and deletes lookups after a join has chosen the lookups that it reads."""
    monkeypatch.setattr(compaction, "_FEW_FILES", 0)
    area, days = Area(tmp_path, buckets=1), arrivals(6)
    found: Made = set()
    find: Callable[..., Any] = lookups.find
    beside = 0

    def find_late(*arguments: Any) -> Any:
        nonlocal beside
        before = files(area, ".json")
        compacted(area, [])
        beside += files(area, ".json") != before
        return find(*arguments)

    for day, rows in enumerate(days):
        shards = pull(area, day, rows)
        with monkeypatch.context() as patched:
            patched.setattr(lookups, "find", find_late)
            found |= join(area, day, shards)
    assert beside
    assert found == all_of(days)


def test_lookups_are_put_together_and_deleted_when_no_join_can_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(6)
    for day, rows in enumerate(days):
        join(area, day, pull(area, day, rows))
    names = {path.stem for path in files(area, ".json")}
    monkeypatch.setattr(compaction, "_UNUSED", timedelta(seconds=-60))
    found = join(area, 12, pull(area, 12, arrivals(1, seed=9)[0])) | join(
        area, 13, pull(area, 13, arrivals(1, seed=8)[0])
    )
    left = {path.stem for path in files(area, ".json")}
    assert found
    assert names - left
    for side, bucket in itertools.product(("laion_2b", "laion_coco"), range(area.buckets)):
        assert len(lookups.needed(valid(area, side, bucket))) <= 4  # type: ignore[arg-type]
    assert {path.stem for path in files(area, ".rows")} == left


def test_rows_of_a_removed_shard_and_of_other_rules_are_not_found(tmp_path: Path) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(6)
    shards = [pull(area, day, rows) for day, rows in enumerate(days)]
    for day in range(5):
        join(area, day, shards[day])
    compacted(area, shards[5])
    pulled.remove(area.storage, shards[1][0])
    kept = [(rows[0] if day != 1 else [], rows[1]) for day, rows in enumerate(days)]
    assert join(area, 5, shards[5]) == all_of(kept) - all_of(kept[:5]) | join_again(days[5], kept)
    assert valid(area, "laion_2b", 0)
    area.settings = area.settings.model_copy(update={"punsafe_max": 0.2})
    assert valid(area, "laion_2b", 0) == []


def test_rows_of_a_replaced_file_are_read_from_the_new_file(tmp_path: Path) -> None:
    area, days = Area(tmp_path, buckets=1), arrivals(4)
    shards = [pull(area, day, rows) for day, rows in enumerate(days)]
    compacted(area, shards[3])
    pulled.remove(area.storage, shards[1][0])
    repaired = area.put("laion_2b", "raw01", days[0][0][:7])
    assert any("raw01" not in lookup.shards for lookup in valid(area, "laion_2b", 0))
    everything = [(days[0][0][:7] if day == 1 else rows[0], rows[1]) for day, rows in enumerate(days)]
    assert repaired.shard_id == "raw01"
    assert join(area, 3, shards[3]) == join_again(days[3], everything)


def valid(area: Area, side: Side, bucket: int) -> list[lookups.Lookup]:
    rules = PullRules.of(area.settings)
    files = bucket_side.BucketSide.of(area.storage, side, bucket, set(), rules)
    return lookups.lookups_of(area.storage, side, bucket, files.sizes, rules)


def join_again(new: tuple[list[Row], list[Row]], everything: list[tuple[list[Row], list[Row]]]) -> Made:
    raw, coco = ([row for day in everything for row in day[side]] for side in (0, 1))
    return brute_force(new[0], coco) | brute_force(raw, new[1])


def test_few_rows_are_read_of_many_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    area = Area(tmp_path, buckets=2)
    for day in range(4):
        rows = [{"URL": f"u{day}-{n}", "TEXT": "raw", "top_caption": "A car.", "similarity": 0.1} for n in range(2000)]
        shards = pull(area, day, (rows, [{**row, "URL": f"other {row['URL']}"} for row in rows]))
        join(area, day, shards)
    compacted(area, [])
    read = []
    decode = lookups.read_records
    monkeypatch.setattr(lookups, "read_records", lambda *a: read.append(a) or decode(*a))
    new = area.put("laion_coco", "new", [{"URL": "u1-7", "TEXT": "raw", "top_caption": "A new car."}])
    [bucket] = [b for b in range(area.buckets) if pair_bucket(b, {"new"}, DAYS[9], area.storage, area.settings).pairs]
    assert len(read) == 1
    assert new.side == "laion_coco"
    assert bucket in range(area.buckets)
