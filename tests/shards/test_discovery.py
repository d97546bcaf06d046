from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.shards.discovery import discover, discovered
from capsfusion_tasks.shards.failures import system_errors
from capsfusion_tasks.shards.listing import all_shards, dates, image_result_files, listed_shards
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.patterns import path_filter
from capsfusion_tasks.shards.source import Unreadable
from capsfusion_tasks.shards.sources import SideSource, configured_sources, open_source, opened
from capsfusion_tasks.staging.storage import Storage

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))


def arrive(file: Path, when: datetime, content: bytes = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (when.timestamp(), when.timestamp()))
    return file


def side(folder: Path) -> SideSource:
    return SideSource(LocalSource(str(folder)), path_filter(["*.parquet"], []))


@pytest.fixture
def both(tmp_path: Path) -> dict[Side, SideSource]:
    for name in ("raw", "coco"):
        (tmp_path / name).mkdir()
    return {"laion_2b": side(tmp_path / "raw"), "laion_coco": side(tmp_path / "coco")}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "staging"))


@pytest.mark.usefixtures("hub")
def test_an_error_of_a_source_that_nobody_set_says_that_it_is_the_default(tmp_path: Path) -> None:
    unset, named = configured_sources(load_settings(laion_coco=str(tmp_path / "nowhere"))).values()
    with pytest.raises(InputError, match=r"relaion2B.*\(CAPSFUSION_LAION2B is not set, so its default is used"):
        list(unset.source.files(unset.wanted))
    with pytest.raises(InputError, match=r"no folder [^(]*$"):
        list(named.source.files(named.wanted))


def test_a_file_that_is_overwritten_while_it_is_read_is_not_read_on(tmp_path: Path) -> None:
    arrive(tmp_path / "replaced.parquet", START, b"old and long")
    arrive(tmp_path / "written.parquet", START, b"old and long")
    source = LocalSource(str(tmp_path))
    replaced, written = all_shards("laion_2b", side(tmp_path))
    with source.open(replaced) as stream:
        os.replace(arrive(tmp_path / "new", START, b"new and long"), tmp_path / "replaced.parquet")
        assert stream.read_at(12, 0) == b"old and long"
    with source.open(written) as stream:
        assert stream.read_at(3, 0) == b"old"
        (tmp_path / "written.parquet").write_bytes(b"new and long")
        with pytest.raises(InputError, match=r"written\.parquet has changed since it was discovered"):
            stream.read_at(3, 9)


def test_a_file_in_both_sources_is_refused(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    arrive(tmp_path / "raw/a.parquet", START - timedelta(days=9))
    arrive(tmp_path / "coco/b.parquet", START)
    same = {**both, "laion_coco": both["laion_2b"]}
    with pytest.raises(InputError, match=r"raw/a\.parquet is in two sources, laion_2b and laion_coco, .*_INCLUDE"):
        discover(same, DAY, storage)
    assert discovered(DAY, storage) == []
    results = image_result_files(load_settings(image_results=str(tmp_path / "coco")))
    with pytest.raises(InputError, match=r"coco/b\.parquet is in two sources, laion_coco and image_results, "):
        discover(both, DAY, storage, image_results=results)
    assert labels(discover(both, DAY, storage)) == ["laion_coco/b.parquet"]


def labels(shards: list[Shard]) -> list[str]:
    return [shard.label for shard in shards]


def test_a_shard_belongs_to_the_interval_in_which_it_arrived(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    arrive(tmp_path / "raw" / "before.parquet", START - timedelta(seconds=1))
    arrive(tmp_path / "raw" / "first.parquet", START)
    arrive(tmp_path / "coco" / "deep" / "last.parquet", START + timedelta(days=1, seconds=-1))
    arrive(tmp_path / "coco" / "after.parquet", START + timedelta(days=1))
    arrive(tmp_path / "raw" / "notes.txt", START)
    arrive(tmp_path / "raw" / ".being-copied.parquet", START)
    arrive(tmp_path / "raw" / "_temporary" / "0.parquet", START)
    assert labels(discover(both, DAY, storage)) == ["laion_2b/first.parquet", "laion_coco/deep/last.parquet"]


def test_the_list_is_frozen_when_shards_are_first_found(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    assert discover(both, DAY, storage) == []
    arrive(tmp_path / "raw" / "a.parquet", START)
    first = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "b.parquet", START)
    (tmp_path / "raw" / "a.parquet").unlink()
    assert discover(both, DAY, storage) == first
    assert labels(first) == ["laion_2b/a.parquet"]


def test_a_changed_file_is_a_new_shard(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    arrive(tmp_path / "raw" / "a.parquet", START)
    (first,) = discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "a.parquet", START + timedelta(days=1), b"longer")
    next_day = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
    (second,) = discover(both, next_day, storage)
    assert (first.path, first.etag) != (second.path, second.etag)
    assert first.shard_id != second.shard_id
    with (
        pytest.raises(InputError, match="has changed since it was discovered"),
        both["laion_2b"].source.open(first),
    ):
        pass


def test_a_shard_that_is_gone_is_named(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    file = arrive(tmp_path / "raw" / "a.parquet", START)
    (shard,) = discover(both, DAY, storage)
    file.unlink()
    with pytest.raises(InputError, match=r"raw/a\.parquet is gone"), both["laion_2b"].source.open(shard):
        pass


def test_a_source_folder_that_does_not_exist_is_named(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(InputError, match=r"no folder .*/nowhere: name the folder that has the files"):
        discover({"laion_2b": side(tmp_path / "nowhere")}, DAY, storage)


def test_the_list_of_an_interval_that_is_not_over_takes_in_what_still_arrives(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    now = datetime.now(UTC)
    today = Interval(start=now - timedelta(hours=1), end=now + timedelta(hours=1))
    arrive(tmp_path / "raw" / "a.parquet", now)
    assert labels(discover(both, today, storage)) == ["laion_2b/a.parquet"]
    (tmp_path / "raw" / "a.parquet").unlink()  # the shard stays in the list: it may already be paired
    arrive(tmp_path / "raw" / "b.parquet", now)
    found = ["laion_2b/a.parquet", "laion_2b/b.parquet"]
    assert labels(discover(both, today, storage)) == found
    assert labels(discovered(today, storage)) == found


def test_a_file_that_sorts_before_those_of_earlier_intervals_is_found(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    arrive(tmp_path / "raw" / "m.parquet", START)
    discover(both, DAY, storage)
    arrive(tmp_path / "raw" / "a.parquet", DAY.end)
    next_day = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
    assert labels(discover(both, next_day, storage)) == ["laion_2b/a.parquet"]
    assert labels(discovered(DAY, storage)) == ["laion_2b/m.parquet"]


def test_what_discovery_did_not_find_has_no_shards(storage: Storage) -> None:
    assert discovered(DAY, storage) == []


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ('["*.parquet"]', "", ["a.parquet", "deep/b.parquet"]),
        ("*.parquet, *.pq", "", ["a.parquet", "c.pq", "deep/b.parquet"]),
        ("*.parquet", "deep/*", ["a.parquet"]),
        ("*.parquet", "b.*", ["a.parquet"]),
        ("deep/*.parquet", "", ["deep/b.parquet"]),
        ("**/*.parquet", "", ["a.parquet", "deep/b.parquet"]),
        ("deep/**/b.parquet", "", ["deep/b.parquet"]),
        ("./a.parquet", "", ["a.parquet"]),
        ("{a,b}.parquet, c.{pq,parquet}", "", ["a.parquet", "c.pq", "deep/b.parquet"]),
        ("{a,{b,c}}.{pq,parquet}", "{deep,other}/**", ["a.parquet", "c.pq"]),
        ("[ab].parquet,[c]*", "", ["a.parquet", "c.pq", "deep/b.parquet"]),
        ("*", "", ["a.parquet", "c.pq", "deep/b.parquet"]),
    ],
)
def test_patterns_say_which_files_are_shards(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch, include: str, exclude: str, expected: list[str]
) -> None:
    for name in ("a.parquet", "c.pq", "deep/b.parquet"):
        arrive(tmp_path / "raw" / name, START)
    monkeypatch.setenv("CAPSFUSION_LAION2B_INCLUDE", include)
    monkeypatch.setenv("CAPSFUSION_LAION2B_EXCLUDE", exclude)
    settings = load_settings(laion2b=str(tmp_path / "raw"))
    found = discover({"laion_2b": configured_sources(settings)["laion_2b"]}, DAY, storage)
    assert [shard.path for shard in found] == expected


def test_a_range_of_numbers_is_a_pattern() -> None:
    wanted = path_filter(["part-{00000..00127}.parquet"], [])
    assert [wanted(f"data/part-{number:05}.parquet") for number in (0, 127, 128)] == [True, True, False]
    with pytest.raises(InputError, match=r"the pattern \{0\.\.9999999\} has more than 10,000 alternatives"):
        path_filter(["{0..9999999}"], [])


def test_links_to_folders_are_followed_and_each_folder_is_listed_once(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    arrive(tmp_path / "disk2" / "b.parquet", START)
    arrive(tmp_path / "raw" / "a.parquet", START)
    arrive(tmp_path / "raw" / "v3" / "c.parquet", START)
    (tmp_path / "raw" / "disk2").symlink_to(tmp_path / "disk2")
    (tmp_path / "raw" / "latest").symlink_to("v3")
    arrive(tmp_path / "raw" / ".cache" / "d.parquet", START)
    (tmp_path / "raw" / "data").symlink_to(".cache")
    (tmp_path / "raw" / "again").symlink_to(tmp_path / "raw")
    (tmp_path / "disk2" / "deep").mkdir()
    (tmp_path / "disk2" / "deep" / "up").symlink_to(tmp_path / "raw")
    assert labels(discover(both, DAY, storage)) == [
        "laion_2b/a.parquet",
        "laion_2b/data/d.parquet",
        "laion_2b/disk2/b.parquet",
        "laion_2b/v3/c.parquet",
    ]


def test_what_cannot_be_read_is_in_the_list_until_it_can(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage
) -> None:
    raw = tmp_path / "raw"
    arrive(raw / "a.parquet", START)
    (raw / "dead.parquet").symlink_to(tmp_path / "disk2" / "b.parquet")
    (raw / "loop.parquet").symlink_to(raw / "loop.parquet")
    (raw / "unmounted").symlink_to(tmp_path / "disk3")
    (raw / ".hidden").symlink_to(tmp_path / "disk3")
    found = discover(both, DAY, storage)
    assert {shard.path: shard.problem for shard in found} == {
        "a.parquet": "",
        "dead.parquet": f"{raw}/dead.parquet is a dead link: restore its target, or remove the link",
        "loop.parquet": f"cannot read {raw}/loop.parquet: Too many levels of symbolic links:"
        " a link leads back to itself: replace it",
        "unmounted": f"{raw}/unmounted is a dead link: restore its target, or remove the link",
    }
    with pytest.raises(InputError, match=r"dead\.parquet is a dead link"), opened(found[1], load_settings()):
        pass

    arrive(tmp_path / "disk2" / "b.parquet", START)
    arrive(tmp_path / "disk3" / "c.parquet", START)
    (raw / "loop.parquet").unlink()
    gone: list[Shard] = []
    mended = discover(both, DAY, storage, remove=gone.extend, claim=lambda late: {shard.shard_id for shard in late})
    assert [(shard.path, shard.problem) for shard in mended] == [
        (path, "") for path in ("a.parquet", "dead.parquet", "unmounted/c.parquet")
    ]
    assert {shard.shard_id for shard in gone} == {shard.shard_id for shard in found if shard.problem}
    arrive(raw / "late.parquet", START)
    assert discover(both, DAY, storage) == mended, "the list is frozen, now that nothing is missing from it"


def test_an_excluded_problem_is_none(tmp_path: Path, storage: Storage) -> None:
    arrive(tmp_path / "raw" / "a.parquet", START)
    (tmp_path / "raw" / "old").symlink_to(tmp_path / "disk3")
    settings = load_settings(laion2b=str(tmp_path / "raw"), laion2b_exclude="old*")
    assert labels(discover({"laion_2b": configured_sources(settings)["laion_2b"]}, DAY, storage)) == [
        "laion_2b/a.parquet"
    ]


@pytest.fixture
def as_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a test of file permissions.

    If root runs the tests, this test becomes the user nobody, because root may read everything.
    """
    with TemporaryDirectory(dir="/tmp") as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


def test_a_file_or_a_folder_without_permission_fails_alone(as_nobody: Path) -> None:
    for name in ("a.parquet", "locked.parquet", "day2/b.parquet", "lost+found/c.parquet", "unsearchable/d.parquet"):
        arrive(as_nobody / name, START)
    for name, mode in {"locked.parquet": 0, "day2": 0, "lost+found": 0, "unsearchable": 0o400}.items():
        (as_nobody / name).chmod(mode)
    found = {file.path: file for file in LocalSource(str(as_nobody)).files(path_filter(["*.parquet"], []))}
    advice = "Permission denied: give the user that runs this process the right to read it"
    assert {path: file.reason for path, file in found.items() if isinstance(file, Unreadable)} == {
        path: f"cannot read {as_nobody}/{path.rstrip('/')}: {advice}" for path in ("day2/", "unsearchable/d.parquet")
    }
    assert found.keys() - {"day2/", "unsearchable/d.parquet"} == {"a.parquet", "locked.parquet"}
    locked = Shard(
        shard_id="0",
        side="laion_2b",
        source=str(as_nobody),
        **{name: getattr(found["locked.parquet"], name) for name in ("path", "etag", "size_bytes", "arrived_at")},
    )
    with (
        pytest.raises(InputError, match=rf"cannot read {as_nobody}/locked\.parquet: \S+.*: give the user"),
        opened(locked, load_settings(laion2b=str(as_nobody))),
    ):
        pass
    (as_nobody / "day2").chmod(0o700)
    (as_nobody / "day2" / "inner").mkdir()
    (as_nobody / "day2").chmod(0)
    with pytest.raises(InputError, match=r"cannot list .*/day2/inner: Permission denied"):
        list(LocalSource(str(as_nobody / "day2" / "inner")).files(bool))


def test_a_time_that_no_calendar_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("/dev/shm")  # noqa: S108 - the file systems on disks keep no such times
    if not folder.is_dir():
        pytest.skip("needs a file system in memory")
    with TemporaryDirectory(dir=folder) as name:
        file = arrive(Path(name) / "a.parquet", START)
        os.utime(file, (1 << 40, 1 << 40))
        assert list(LocalSource(name).files(bool)) == [
            Unreadable(
                "a.parquet",
                f"{file} has the modification time {1 << 40} seconds after 1970, which is outside the years 1 to 9999:"
                " set a new time with `touch`",
            )
        ]


def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, both: dict[Side, SideSource], storage: Storage) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    arrive(tmp_path / "raw" / "a.parquet", START, pointer)
    arrive(tmp_path / "raw" / "b.parquet", START, b"short")
    first, second = discover(both, DAY, storage)
    with (
        pytest.raises(InputError, match=r"a\.parquet is a Git LFS pointer, not the file: run `git lfs pull`"),
        opened(first, load_settings()),
    ):
        pass
    with opened(second, load_settings()) as stream:
        assert stream.read() == b"short"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "there are no files"),
        (["a.csv", "b.csv"], "2 files do not match the side's include and exclude patterns, such as a.csv"),
        (
            ["_tmp/0.parquet", "notes.txt"],
            "1 files do not match the side's include and exclude patterns, such as notes.txt; "
            "1 files or folders begin with . or _, such as _tmp",
        ),
    ],
)
def test_a_source_without_a_shard_says_what_it_has(
    tmp_path: Path,
    both: dict[Side, SideSource],
    storage: Storage,
    caplog: pytest.LogCaptureFixture,
    files: list[str],
    said: str,
) -> None:
    arrive(tmp_path / "coco" / "a.parquet", START)
    for name in files:
        arrive(tmp_path / "raw" / name, START)
    discover(both, DAY, storage)
    assert [record.message for record in caplog.records] == [
        f"discover: laion_2b has no shard at all in {tmp_path}/raw: {said}"
    ]


def test_a_dead_link_does_not_hide_that_nothing_else_is_found(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    arrive(tmp_path / "raw" / "a.csv", START)
    arrive(tmp_path / "coco" / "a.parquet", DAY.end)
    for side in ("raw", "coco"):
        (tmp_path / side / "dead.parquet").symlink_to(tmp_path / "nowhere")
    assert [shard.path for shard in discover(both, DAY, storage)] == ["dead.parquet", "dead.parquet"]
    assert [record.message for record in caplog.records] == [
        f"discover: laion_2b has no shard that can be read in {tmp_path}/raw: 1 files do not match the side's include"
        " and exclude patterns, such as a.csv",
        f"discover: laion_coco has 1 shards, but none in the interval: they arrived from {DAY.end:%Y-%m-%d %H:%M:%S} to"
        f" {DAY.end:%Y-%m-%d %H:%M:%S}",
    ]


def test_shards_outside_the_interval_are_told(
    tmp_path: Path, both: dict[Side, SideSource], storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    arrive(tmp_path / "raw" / "a.parquet", DAY.end)
    arrive(tmp_path / "raw" / "b.parquet", DAY.end + timedelta(days=3))
    arrive(tmp_path / "coco" / "a.parquet", START)
    with caplog.at_level("INFO"):
        discover(both, DAY, storage)
    said = "they arrived from 2026-11-11 00:00:00 to 2026-11-14 00:00:00"
    assert [record.message for record in caplog.records] == [
        f"discover: laion_2b has 2 shards, but none in the interval: {said}"
    ]


def test_a_source_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = arrive(tmp_path / "a.parquet", START)
    with pytest.raises(InputError, match=r"a\.parquet is a file: name its folder"):
        list(LocalSource(str(file)).files(bool))
    with pytest.raises(InputError, match=r"cannot list .*: File name too long: move it to a shorter path"):
        list(LocalSource("/" + "a" * 300).files(bool))
    with pytest.raises(InputError, match=r"no folder \S+/~nobody-of-this-name/x"):
        list(LocalSource("~nobody-of-this-name/x").files(bool))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_disk_that_fails_now_is_worth_another_try(code: int) -> None:
    message = re.escape(f"cannot read a now: {os.strerror(code)}: try again later")
    with pytest.raises(NotReadyError, match=message), system_errors("cannot read a"):
        raise OSError(code, os.strerror(code))


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(laion2b_include=["a,b*", "c"], laion_coco="s3://bucket/x", scratch="/scratch")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read shards from gopher://x"):
        open_source("gopher://x", load_settings())
    # An empty address must be refused, not taken for the working folder.
    with pytest.raises(InputError, match="cannot read shards from an empty address"):
        open_source("", load_settings())
    with pytest.raises(InputError, match=r"cannot read shards from http:.*: it names no host"):
        open_source("http:///list.txt", load_settings())


def told_dates(place: SideSource) -> str:
    return dates("laion_2b", place, listed_shards("laion_2b", place, DAY))


def test_a_source_says_on_which_days_its_shards_arrived(tmp_path: Path) -> None:
    assert told_dates(side(tmp_path)).startswith("laion_2b: no shard in ")
    for day, count in {0: 2, 1: 1}.items():
        for number in range(count):
            arrive(tmp_path / f"{day}-{number}.parquet", START + timedelta(days=day))
    there = f"shards in {side(tmp_path).origin}, which arrived as follows:"
    assert told_dates(side(tmp_path)) == f"laion_2b: 3 {there} 2 on 2026-11-10, 1 on 2026-11-11"
    for day in range(2, 10):
        arrive(tmp_path / f"{day}.parquet", START + timedelta(days=day))
    told = told_dates(side(tmp_path))
    assert told.startswith(f"laion_2b: 11 {there} some on 2026-11-10 and 2 other days, then 1 on 2026-11-13, ")
    assert told.endswith(", 1 on 2026-11-19")


@pytest.mark.parametrize(
    ("days", "begins"),
    [
        (7, "1 on 2026-11-10, "),
        (8, "some on 2026-11-10, then 1 on 2026-11-11, "),
        (9, "some on 2026-11-10 and 1 other day, then 1 on 2026-11-12, "),
    ],
)
def test_only_the_last_days_of_a_source_are_told_one_by_one(tmp_path: Path, days: int, begins: str) -> None:
    for day in range(days):
        arrive(tmp_path / f"{day}.parquet", START + timedelta(days=day))
    assert f", which arrived as follows: {begins}" in told_dates(side(tmp_path))
