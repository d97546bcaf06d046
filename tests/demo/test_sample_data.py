"""The sample shards match their report. The tests read shards with plain loops, without the pipeline."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import mmh3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from capsfusion_tasks.demo.edge_cases import BLANKS, CASES
from capsfusion_tasks.demo.sample_data import make_sample, write_sample_data
from capsfusion_tasks.demo.sample_report import SampleParameters, SampleReport
from capsfusion_tasks.errors import InputError

FIRST_DAY = date(2026, 11, 10)
SIDES = {"laion_2b": "laion-2b", "laion_coco": "laion-coco"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleReport]:
    folder = tmp_path_factory.mktemp("sample") / "new" / "folder"
    return folder, write_sample_data(folder, rows_per_day=120, shards_per_side_per_day=3)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A shard's rows with canonical column names."""
    rows = pq.read_table(path).to_pylist()
    lower = [{name.lower(): value for name, value in row.items()} for row in rows]
    return [{**row, "text": row.get("text", row.get("caption"))} for row in lower]


def refusal(side: str, row: dict[str, Any]) -> str | None:
    captions = [row["text"]] if side == "laion_2b" else [row["text"], row["top_caption"]]
    if not (row["url"] or "").strip():
        return "null_url"
    if any(not (caption or "").strip() for caption in captions):
        return "null_caption"
    if (row["punsafe"] or 0) >= 0.5:
        return "unsafe"
    if (row["pwatermark"] or 0) >= 0.8:
        return "watermarked"
    return None


def find(folder: Path, days: int) -> tuple[dict[tuple[int, str], Counter[str]], dict[tuple[str, str, str], int]]:
    """Read the shards. Returns row counts by (day, side), and pair (url, raw, synthetic) → day when it is complete."""
    counts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    halves: dict[str, dict[tuple[str, ...], int]] = {side: {} for side in SIDES}
    for side, name in SIDES.items():
        for path in sorted((folder / name).glob("*.parquet")):
            day = (datetime.fromtimestamp(path.stat().st_mtime, UTC).date() - FIRST_DAY).days
            assert 0 <= day < days
            for row in read_rows(path):
                counts[day, side]["rows"] += 1
                if reason := refusal(side, row):
                    counts[day, side][reason] += 1
                    continue
                key = (row["url"], row["text"]) + ((row["top_caption"],) if side == "laion_coco" else ())
                halves[side][key] = min(day, halves[side].get(key, day))
    raw = halves["laion_2b"]
    pairs = {
        (url, text, synthetic): max(day, raw[url, text])
        for (url, text, synthetic), day in halves["laion_coco"].items()
        if (url, text) in raw
    }
    return counts, pairs


def test_a_reader_finds_exactly_what_the_report_says(sample: tuple[Path, SampleReport]) -> None:
    folder, report = sample
    counts, pairs = find(folder, days=3)
    per_day = Counter(pairs.values())
    for number, day in enumerate(report.days):
        assert day.day == FIRST_DAY + timedelta(days=number)
        assert day.pairs == per_day[number] >= 120
        for side in SIDES:
            expected = getattr(day, side)
            found = counts[number, side]
            assert expected.shards == 3
            assert {"rows": expected.rows, **expected.dropped} == {
                name: found[name] for name in ("rows", "null_url", "null_caption", "unsafe", "watermarked")
            }
            assert all(count > 0 for count in expected.dropped.values())
    assert report.pairs == len(pairs)

    announced = make_sample(report.parameters).pairs
    assert {(pair.url, pair.raw, pair.synthetic): pair.day for pair in announced} == pairs
    assert len(announced) == len(pairs)


@pytest.mark.parametrize(
    ("rows_per_day", "days", "shards"),
    [(1, 1, 1), (1, 4, 2), (40, 2, 1), (300, 1, 5), pytest.param(750, 2, 4, marks=pytest.mark.slow)],
)
def test_the_report_is_right_for_any_size(tmp_path: Path, rows_per_day: int, days: int, shards: int) -> None:
    report = write_sample_data(
        tmp_path, rows_per_day=rows_per_day, days=days, shards_per_side_per_day=shards, seed=rows_per_day
    )
    counts, pairs = find(tmp_path, days)
    assert [day.pairs for day in report.days] == [Counter(pairs.values())[number] for number in range(days)]
    assert report.pairs == len(pairs)
    for number, day in enumerate(report.days):
        assert (day.laion_2b.rows, day.laion_coco.rows) == tuple(counts[number, side]["rows"] for side in SIDES)
    if rows_per_day >= 40:
        assert all(day.pairs == rows_per_day for day in report.days)


def test_every_edge_case_is_in_the_default_sample() -> None:
    parameters = SampleParameters(rows_per_day=250, days=3, first_day=FIRST_DAY, shards_per_side_per_day=2, seed=0)
    sample = make_sample(parameters)
    assert {kind.__name__ for kind in CASES} <= sample.report.cases.keys()

    texts = [row.text or "" for shard in sample.shards for row in shard.rows]
    for bit in ("\x00", "\nSentence 2: ", "&quot;", "\u2028"):
        assert any(bit in text for text in texts), repr(bit)
    assert any(ord(character) > 0xFFFF for text in texts for character in text), "emoji"
    directions = {unicodedata.bidirectional(character) for text in texts for character in text}
    assert directions & {"R", "AL"}, "a script from right to left"
    assert max(map(len, texts)) == 20_000
    blanks = {row.text for shard in sample.shards for row in shard.rows}.intersection(BLANKS)
    assert None in blanks
    assert len(blanks) > 2, "texts of spaces only, too"

    first_seen: dict[str, dict[str, int]] = {side: {} for side in SIDES}
    for shard in sample.shards:
        for row in shard.rows:
            if row.url:
                first_seen[row.side].setdefault(row.url, row.day)
    gaps = {first_seen["laion_2b"][p.url] - first_seen["laion_coco"][p.url] for p in sample.pairs}
    assert gaps >= {-2, -1, 0, 1, 2}  # either half of a pair may arrive first, days before the other


def test_shards_look_like_laions_and_drift(sample: tuple[Path, SampleReport]) -> None:
    folder, report = sample
    for name in SIDES.values():
        paths = sorted((folder / name).iterdir())
        assert [path.name[:11] for path in paths] == [f"part-{number:05}-" for number in range(9)]
        assert all(path.name.endswith("-c000.snappy.parquet") for path in paths)
        schemas = [pq.read_schema(path) for path in paths]
        assert any("URL" in schema.names for schema in schemas)
        assert any("url" in schema.names for schema in schemas)
        types = {field.type for schema in schemas for field in schema if field.name.lower() == "width"}
        assert types == {pa.int32(), pa.float64()}
        types = {field.type for schema in schemas for field in schema if field.name == "punsafe"}
        assert types == {pa.float32(), pa.float64()}
        kinds = [field.type for schema in schemas for field in schema]
        assert pa.large_string() in kinds
        assert any(pa.types.is_dictionary(kind) for kind in kinds)
        assert all(pq.ParquetFile(path).num_row_groups > 1 for path in paths)
    assert sorted(report.files) == sorted(str(p.relative_to(folder)) for p in folder.rglob("*.parquet"))


def test_the_sides_shards_do_not_align(sample: tuple[Path, SampleReport]) -> None:
    folder, _ = sample
    urls = {
        side: [[row["url"] for row in read_rows(path)] for path in sorted((folder / name).iterdir())]
        for side, name in SIDES.items()
    }
    for raw, coco in zip(urls["laion_2b"], urls["laion_coco"], strict=True):
        assert sum(a == b for a, b in zip(raw, coco, strict=False)) < 0.2 * len(raw)
        assert len(set(raw) & set(coco)) < 0.7 * len(set(raw))


def test_shards_arrive_inside_their_day_and_at_its_very_ends(sample: tuple[Path, SampleReport]) -> None:
    folder, report = sample
    arrivals = {path: datetime.fromtimestamp((folder / path).stat().st_mtime, UTC) for path in report.files}
    assert arrivals == report.files
    assert datetime(2026, 11, 11, tzinfo=UTC) in arrivals.values()
    assert datetime(2026, 11, 11, 23, 59, 59, tzinfo=UTC) in arrivals.values()


def test_the_hash_is_laions(sample: tuple[Path, SampleReport]) -> None:
    folder, report = sample
    rows = [row for path in report.files for row in read_rows(folder / path)]
    assert all(row["hash"] == mmh3.hash64(((row["url"] or "") + (row["text"] or "")).encode())[0] for row in rows)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_the_same_parameters_give_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_sample_data(tmp_path / name, rows_per_day=30, days=2, seed=seed)
    contents = [{path: data for path, (data, _) in snapshot(tmp_path / name).items()} for name in "abc"]
    assert contents[0] == contents[1]
    assert all(contents[0][path] != contents[2][path] for path in contents[0])


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    report = write_sample_data(tmp_path, rows_per_day=30)
    before = snapshot(tmp_path)
    assert write_sample_data(tmp_path, rows_per_day=30) == report
    assert snapshot(tmp_path) == before


def test_an_interrupted_sample_is_completed(tmp_path: Path) -> None:
    report = write_sample_data(tmp_path, rows_per_day=30)
    before = snapshot(tmp_path)
    first, second, *_ = report.files
    (tmp_path / first).unlink()
    os.utime(tmp_path / second)  # the file lacks its arrival time, as after an interruption
    assert write_sample_data(tmp_path, rows_per_day=30) == report
    after = snapshot(tmp_path)
    del before["EXPECTED.json"], after["EXPECTED.json"]  # this file is rewritten, with the same content
    assert after == before


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and holds no sample .*: name a new or an empty folder"):
        write_sample_data(tmp_path)
    assert snapshot(tmp_path).keys() == {"mine.txt"}
    (tmp_path / "EXPECTED.json").write_text("{}")
    with pytest.raises(InputError, match=r"EXPECTED.json was not written by capsfusion sample-data: name another"):
        write_sample_data(tmp_path)


def test_a_folder_with_another_sample_says_how_it_differs(tmp_path: Path) -> None:
    write_sample_data(tmp_path, rows_per_day=30, days=1)
    before = snapshot(tmp_path)
    with pytest.raises(InputError, match=r"rows_per_day 30.*requested: rows_per_day 31.*delete this folder first"):
        write_sample_data(tmp_path, rows_per_day=31, days=1)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["rows_per_day", "days", "shards_per_side_per_day"])
def test_a_size_below_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
        write_sample_data(tmp_path / "new", **{name: 0})
    assert not (tmp_path / "new").exists()


def test_the_report_prints_and_reads_back(sample: tuple[Path, SampleReport]) -> None:
    folder, report = sample
    assert SampleReport.model_validate_json((folder / "EXPECTED.json").read_text()) == report
    console = Console(width=120)
    with console.capture() as capture:
        console.print(report.table())
    printed = capture.get()
    assert f"{report.pairs} pairs to find" in printed
    assert "2026-11-12" in printed
