from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import mmh3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.pairing import database, join
from capsfusion_tasks.pairing.buckets import split_shard
from capsfusion_tasks.pairing.database import DoesNotFit
from capsfusion_tasks.pairing.identity import laion_hashes, pair_ids
from capsfusion_tasks.pairing.join import pair_bucket
from capsfusion_tasks.schemas import FOUND_PAIRS, Shard, Side
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

START = datetime(2026, 11, 10, tzinfo=UTC)
DAYS = [Interval(start=START + timedelta(days=n), end=START + timedelta(days=n + 1)) for n in range(3)]


class Area:
    """A staging area with methods that pull shards and join them."""

    def __init__(self, folder: Path, buckets: int = 3, **options: Any) -> None:
        self.settings: Settings = load_settings(buckets=buckets, **options)
        self.buckets = buckets
        self.storage = Storage(str(folder / "staging"))
        self.folder = folder

    def put(self, side: Side, name: str, rows: list[dict[str, Any]]) -> Shard:
        file = self.folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), file)
        shard = self.shard(side, name)
        with pa.memory_map(str(file)) as stream:
            split_shard(stream, shard, self.storage, self.settings)
        return shard

    def shard(self, side: Side, name: str) -> Shard:
        source, path = str(self.folder), f"{name}.parquet"
        return Shard(shard_id=name, side=side, source=source, path=path, etag="1", size_bytes=1, arrived_at=START)

    def join(self, day: Interval, *new: Shard) -> list[dict[str, Any]]:
        for bucket in range(self.buckets):
            pair_bucket(bucket, {shard.shard_id for shard in new}, day, self.storage, self.settings)
        tables = [self.storage.read_table(path) for path in self.storage.files(layout.pairs_folder(day))]
        pairs = pa.concat_tables(tables)
        assert pairs.schema == FOUND_PAIRS
        return list(pairs.to_pylist())


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path)


def raw(url: str, text: str = "raw", **more: Any) -> dict[str, Any]:
    return {"URL": url, "TEXT": text, "similarity": 0.3, **more}


def coco(url: str, synthetic: str = "A synthetic caption.", text: str = "raw", **more: Any) -> dict[str, Any]:
    return {"URL": url, "TEXT": text, "top_caption": synthetic, **more}


@pytest.mark.parametrize(
    ("raws", "cocos", "expected"),
    [
        (["a"], ["b"], "a"),
        ([None], ["b"], "b"),
        ([None], [None], None),
        ([None, "c"], [None], None),  # the row with the highest similarity gives the licence
    ],
)
def test_a_pair_has_the_licence_of_its_raw_row_or_else_of_its_synthetic_row(
    area: Area, raws: list[str | None], cocos: list[str | None], expected: str | None
) -> None:
    a = area.put("laion_2b", "a", [raw("u", LICENSE=one, similarity=0.5 - n / 10) for n, one in enumerate(raws)])
    b = area.put("laion_coco", "b", [coco("u", LICENSE=one) for one in cocos])
    [pair] = area.join(DAYS[0], a, b)
    assert pair["license"] == expected


GONE, THERE = "failed_to_download", "success"


@pytest.mark.parametrize(
    ("raws", "cocos", "expected"),
    [
        ([GONE], [None], True),
        ([None], [GONE], True),
        ([GONE], [THERE], False),
        ([THERE, GONE], [GONE], False),
        ([GONE, None], [None], True),
        ([None], [None], None),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_an_image_is_gone_if_a_row_says_so_and_none_says_that_it_is_there(
    tmp_path: Path, raws: list[str | None], cocos: list[str | None], expected: bool | None, alone: bool
) -> None:
    area = Area(tmp_path, laion2b="none") if alone else Area(tmp_path)
    shards = [] if alone else [area.put("laion_2b", "a", [raw("u", status=status) for status in raws])]
    cocos = [*cocos, *raws] if alone else cocos
    shards.append(area.put("laion_coco", "b", [coco("u", status=status) for status in cocos]))
    [pair] = area.join(DAYS[0], *shards)
    assert pair["gone"] is expected


def test_rows_meet_on_url_and_raw_text(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1"), raw("u2"), raw("u3", "other text")])
    b = area.put("laion_coco", "b", [coco("u3"), coco("u2", "A car."), coco("u4")])
    (pair,) = area.join(DAYS[0], a, b)
    assert (pair["image_url"], pair["laion_2b"], pair["laion_coco"]) == ("u2", "raw", "A car.")
    assert (pair["laion_2b_shard"], pair["laion_2b_row"]) == ("a", 1)
    assert (pair["laion_coco_shard"], pair["laion_coco_row"]) == ("b", 1)
    assert pair["similarity"] == 0.3


def test_rows_meet_on_url_alone_where_asked(tmp_path: Path) -> None:
    area = Area(tmp_path, join_on="url")
    a = area.put("laion_2b", "a", [raw("u1")])
    b = area.put("laion_coco", "b", [{"URL": "u1", "top_caption": "A car."}])
    assert len(area.join(DAYS[0], a, b)) == 1


def test_whichever_half_comes_last_makes_the_pair(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1"), raw("u2")])
    assert area.join(DAYS[0], a) == []
    b = area.put("laion_coco", "b", [coco("u1"), coco("u3")])
    assert [pair["image_url"] for pair in area.join(DAYS[1], b)] == ["u1"]
    c = area.put("laion_2b", "c", [raw("u3")])
    assert [pair["image_url"] for pair in area.join(DAYS[2], c)] == ["u3"]


def test_days_in_any_order_find_the_same_pairs(tmp_path: Path) -> None:
    shards: list[tuple[Side, str, list[dict[str, Any]]]] = [
        ("laion_2b", "a", [raw("u1"), raw("u2"), raw("u2")]),
        ("laion_coco", "b", [coco("u1"), coco("u1", "Another."), coco("u3")]),
        ("laion_2b", "c", [raw("u1"), raw("u3"), raw("u3", "more")]),
    ]
    found = []
    for number, order in enumerate(itertools.permutations(range(3))):
        (folder := tmp_path / str(number)).mkdir()
        area = Area(folder)
        pairs = {pair["pair_id"] for day in order for pair in area.join(DAYS[day], area.put(*shards[day]))}
        found.append(pairs)
    assert all(pairs == found[0] for pairs in found)
    assert len(found[0]) == 3


def test_rows_that_say_the_same_make_one_pair_of_the_highest_similarity(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1", similarity=0.2), raw("u1", similarity=0.4), raw("u1", similarity=None)])
    b = area.put("laion_2b", "b", [raw("u1", similarity=0.4)])
    c = area.put("laion_coco", "c", [coco("u1"), coco("u1")])
    (pair,) = area.join(DAYS[0], a, b, c)
    assert (pair["similarity"], pair["laion_2b_shard"], pair["laion_2b_row"], pair["laion_coco_row"]) == (
        0.4,
        "a",
        1,
        0,
    )


def test_another_synthetic_caption_is_another_pair(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1")])
    b = area.put("laion_coco", "b", [coco("u1", "One."), coco("u1", "Two.")])
    assert {pair["laion_coco"] for pair in area.join(DAYS[0], a, b)} == {"One.", "Two."}


def test_the_worse_of_both_sides_safety_scores_counts(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1", punsafe=0.1, pwatermark=0.7)])
    b = area.put("laion_coco", "b", [coco("u1", punsafe=0.4, pwatermark=None)])
    (pair,) = area.join(DAYS[0], a, b)
    assert (pair["punsafe"], pair["pwatermark"]) == (0.4, 0.7)


def test_identity_is_content_and_parts_do_not_run_together() -> None:
    texts = [
        ("u", "ab", "c"),
        ("u", "a", "bc"),
        ("ua", "b", "c"),
        ("", "uab", "c"),
        ("u a", "b", "c"),
        ("u", "ab", "c"),
    ]
    ids = pair_ids(*(pa.array(column) for column in zip(*texts, strict=True))).to_pylist()
    assert ids[0] == ids[-1]
    assert len(set(ids)) == len(texts) - 1


def test_laion_hash_is_laions() -> None:
    hashes = laion_hashes(pa.array(["http://a/é.jpg"]), pa.array(["text"]))
    assert hashes.to_pylist() == [mmh3.hash64("http://a/é.jpgtext".encode())[0]]


def test_a_bucket_that_is_too_large_to_join_at_once_gives_the_same_pairs(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = area.put("laion_2b", "a", [raw(f"u{n}", f"text {n}") for n in range(200)])
    b = area.put("laion_coco", "b", [coco(f"u{n}", f"Caption {n}.", f"text {n}") for n in range(100, 300)])
    at_once = area.join(DAYS[0], a, b)
    monkeypatch.setattr(join, "_PASS_BYTES", 2000)
    in_parts = area.join(DAYS[1], a, b)
    assert pq.ParquetFile(Path(area.storage.path(f"{layout.pairs_folder(DAYS[1])}/00000.parquet"))).num_row_groups > 2
    assert len(at_once) == 100
    assert sorted(map(str, in_parts)) == sorted(map(str, at_once))


def test_a_pass_that_does_not_fit_in_memory_is_joined_in_halves(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    a = area.put("laion_2b", "a", [raw(f"u{n}") for n in range(200)])
    b = area.put("laion_coco", "b", [coco(f"u{n}") for n in range(200)])
    at_once, fits, enough = area.join(DAYS[0], a, b), join._join, 4

    def join_in_little_memory(*arguments: Any) -> Any:
        if arguments[3] < enough:
            raise DoesNotFit("the rows of a join fit neither in memory nor on disk")
        return fits(*arguments)

    monkeypatch.setattr(join, "_join", join_in_little_memory)
    assert sorted(map(str, area.join(DAYS[1], a, b))) == sorted(map(str, at_once))
    enough = 1 << 10
    with pytest.raises(DoesNotFit):
        area.join(DAYS[1], a, b)


def test_a_join_keeps_to_the_memory_that_it_is_given(tmp_path: Path) -> None:
    area = Area(tmp_path, buckets=1, pair_memory=96, join_on="url")
    with database.database(area.settings) as connection:
        assert connection.execute("select current_setting('memory_limit')").fetchone() == ("30.5 MiB",)  # a third
    rows = [f"{n} {n * 7919} {n * 104729}" for n in range(40_000)]  # each side takes 19 MB in DuckDB
    a = area.put("laion_2b", "a", [raw(f"http://img.example.org/{row}.jpg", f"{row} " * 6) for row in rows])
    b = area.put("laion_coco", "b", [coco(f"http://img.example.org/{row}.jpg", row, f"{row} " * 6) for row in rows])
    [joined] = [pair_bucket(0, {"a", "b"}, DAYS[0], area.storage, area.settings)]
    assert joined.pairs == len(rows)
    assert {a.side, b.side} == {"laion_2b", "laion_coco"}


def test_rows_that_are_repeated_thousands_of_times_on_both_sides_make_one_pair(area: Area) -> None:
    a = area.put("laion_2b", "a", [raw("u1")] * 30_000)
    b = area.put("laion_coco", "b", [coco("u1")] * 30_000)
    assert len(area.join(DAYS[0], a, b)) == 1


def test_laion_coco_alone_is_paired_with_itself(tmp_path: Path) -> None:
    area = Area(tmp_path, laion2b="none")
    a = area.put("laion_coco", "a", [coco("u1", similarity=0.2), coco("u2", "A car.", "other", punsafe=0.1)])
    b = area.put("laion_coco", "b", [coco("u1", similarity=0.4), coco("u3"), coco("u1", "Another.")])
    first = area.join(DAYS[0], a)
    assert {(pair["image_url"], pair["laion_2b"], pair["laion_coco"]) for pair in first} == {
        ("u1", "raw", "A synthetic caption."),
        ("u2", "other", "A car."),
    }
    second = {(pair["image_url"], pair["laion_coco"]): pair for pair in area.join(DAYS[1], b)}
    assert set(second) == {("u1", "A synthetic caption."), ("u1", "Another."), ("u3", "A synthetic caption.")}
    origin = second["u1", "A synthetic caption."]
    assert (origin["similarity"], origin["laion_2b_shard"], origin["laion_2b_row"]) == (0.4, "b", 0)
    assert {pair["pair_id"] for pair in first} & {pair["pair_id"] for pair in second.values()}


def replace_rules(area: Area) -> None:
    area.settings = area.settings.model_copy(update={"punsafe_max": 0.2})
    area.put("laion_2b", "a", [raw("u")])


def delete_file(area: Area) -> None:
    [file] = [file.path for file in area.storage.tree("buckets/laion_2b") if file.path.endswith("a.parquet")]
    area.storage.delete(file)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (replace_rules, InputError, r"a\.parquet was pulled with .*: run the shard's interval again"),
        (delete_file, NotReadyError, r"laion_2b/00000 was deleted while the bucket was joined .*: try again"),
    ],
)
def test_a_file_that_another_task_changes_during_a_join_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Area], None],
    kind: type[Exception],
    message: str,
) -> None:
    area = Area(tmp_path, buckets=1)
    shards = area.put("laion_2b", "a", [raw("u")]), area.put("laion_coco", "b", [coco("u")])
    sides = join._sides

    def changed(*arguments: Any) -> Any:
        listed = sides(*arguments)
        change(area)
        return listed

    monkeypatch.setattr(join, "_sides", changed)
    with pytest.raises(kind, match=message):
        area.join(DAYS[0], *shards)


def test_a_shard_that_is_split_already_is_not_read_again(area: Area) -> None:
    area.put("laion_2b", "a", [raw("u1")])
    shard = area.put("laion_2b", "a", [raw("u2"), raw("u3")])
    b = area.put("laion_coco", "b", [coco("u1"), coco("u2")])
    assert [pair["image_url"] for pair in area.join(DAYS[0], shard, b)] == ["u1"]


def test_another_bucket_count_is_refused(area: Area, tmp_path: Path) -> None:
    area.put("laion_2b", "a", [raw("u1")])
    area.settings = load_settings(buckets=4)
    with pytest.raises(InputError, match="split into 3 buckets, but CAPSFUSION_BUCKETS is 4: set the variable to 3"):
        area.put("laion_2b", "b", [raw("u1")])


@pytest.mark.parametrize("cut", [0, 4, 300], ids=["empty", "magic only", "cut short"])
def test_a_shard_that_is_no_whole_parquet_file_is_named(area: Area, tmp_path: Path, cut: int) -> None:
    area.put("laion_2b", "good", [raw(f"u{n}") for n in range(100)])
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((tmp_path / "good.parquet").read_bytes()[:cut])
    shard = Shard(
        shard_id="x",
        side="laion_2b",
        source=str(tmp_path),
        path="broken.parquet",
        etag="1",
        size_bytes=cut,
        arrived_at=START,
    )
    with broken.open("rb") as stream, pytest.raises(InputError, match=r"broken\.parquet cannot be read as Parquet"):
        split_shard(pa.PythonFile(stream), shard, area.storage, area.settings)


SORT = "create table sorted as select hash(range) as url from range(3_000_000) order by url"  # sorting needs over 24 MB


def sort_in_little_memory(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("set memory_limit = '20MB'")
    connection.execute("set threads = 1")
    connection.execute(SORT)


def test_a_join_spills_to_scratch_space_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    working, scratch = tmp_path / "working", tmp_path / "scratch"
    working.mkdir()
    monkeypatch.chdir(working)
    with database.database(load_settings(scratch=scratch)) as connection:
        sort_in_little_memory(connection)
        assert sum(file.stat().st_size for file in scratch.glob("join-*/*")) > 1_000_000
        assert not any(working.iterdir())
    assert not any(scratch.iterdir())


def test_a_join_that_finds_no_room_may_be_tried_again(tmp_path: Path) -> None:
    def join_without_room() -> None:
        with database.database(load_settings(scratch=tmp_path)) as connection:
            connection.execute("set max_temp_directory_size = '1MB'")
            sort_in_little_memory(connection)

    with pytest.raises(NotReadyError, match=r"the rows of a join fit neither .*; make room .* set CAPSFUSION_SCRATCH"):
        join_without_room()
