"""Tests which values an output format can represent, and which problems are found before anything is written."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.caption_files import (
    check_target,
    check_writable,
    open_caption_file,
    parquet_file,
    row_file,
    write_caption_file,
)
from capsfusion_tasks.errors import InputError

COLUMNS = ["laion_2b", "laion_coco"]
JPEG = b"\xff\xd8\xff\xe0"
NS = 1700000000000000001  # 2023-11-14 22:13:20.000000001


def parquet(path: Path, other: pa.Array, **options: Any) -> Path:
    captions = {name: pa.array(["a"] * len(other)) for name in COLUMNS}
    pq.write_table(pa.table({**captions, "other": other}), path, **options)
    return path


def fused(source: Path, target: Path) -> Path:
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    check_target(target, file)
    write_caption_file(target, file, ["c"] * sum(1 for _ in file.rows()))
    return target


def strict(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (pa.array([NS, None], pa.timestamp("ns")), ["2023-11-14 22:13:20.000000001", None]),
        (pa.array([NS], pa.timestamp("ns", "UTC")), ["2023-11-14 22:13:20.000000001Z"]),
        (pa.array([0], pa.timestamp("ms", "Europe/Berlin")), ["1970-01-01 00:00:00.000Z"]),
        (pa.array([0], pa.timestamp("ms", "No/Such_Zone")), ["1970-01-01 00:00:00.000Z"]),
        (pa.array([253402300800000000], pa.timestamp("us")), ["10000-01-01 00:00:00.000000"]),
        (pa.array([2932897, -719528], pa.date32()), ["10000-01-01", "0000-01-01"]),
        (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
        (pa.array([1, -5], pa.duration("ns")), [1, -5]),
        (pa.array([[NS], None, []], pa.list_(pa.timestamp("ns"))), [["2023-11-14 22:13:20.000000001"], None, []]),
        (pa.array([[(0, 1)]], pa.map_(pa.timestamp("ms"), pa.duration("s"))), [[["1970-01-01 00:00:00.000", 1]]]),
        (pa.array([0.5, float("nan"), float("-inf")]), [0.5, None, None]),
        (pa.array([[float("nan")], [1.0]], pa.list_(pa.float16())), [[None], [1.0]]),
        (pa.array([b"caf\xc3\xa9", None, b""]), ["café", None, ""]),
        (pa.array([b"abcd"], pa.binary(4)), ["abcd"]),
        # If one value of a column is not UTF-8, all values are base64, so that a reader knows their form.
        (pa.array([b"abc", JPEG]), ["YWJj", "/9j/4A=="]),
        (pa.array([JPEG], pa.large_binary()), ["/9j/4A=="]),
        (pa.array([JPEG, b"abc"]).dictionary_encode(), ["/9j/4A==", "YWJj"]),
        (
            pa.array([{"bytes": JPEG, "path": "a"}, None], STRUCT),
            [{"bytes": base64.b64encode(JPEG).decode(), "path": "a"}, None],
        ),
        (pa.array([[{"bytes": b"x", "path": "a"}]], pa.list_(STRUCT)), [[{"bytes": "x", "path": "a"}]]),
        (pa.array([150], pa.decimal128(38, 2)), ["150.00"]),
        (
            pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\xff" * 16], pa.binary(16))),
            [str(UUID(bytes=b"\xff" * 16))],
        ),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.nulls(2), [None, None]),
        (pa.array([[None, None]]), [[None, None]]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_of_parquet_has_a_form_in_json(tmp_path: Path, other: pa.Array, expected: list[Any]) -> None:
    source = parquet(tmp_path / "in.parquet", other)
    lines = fused(source, tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=strict)["other"] for line in lines] == expected
    assert all(json.loads(line)["capsfusion"] == "c" for line in lines)
    written = pq.read_table(fused(source, tmp_path / "out.parquet"))
    assert written["other"].combine_chunks().equals(pq.read_table(source)["other"].combine_chunks()) or "nan" in str(
        other
    )


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.binary_view(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_captions_may_have_each_type_of_text_and_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"laion_2b": pa.array([b"caf\xc3\xa9"]).cast(kind), "laion_coco": pa.nulls(1)})
    pq.write_table(table, tmp_path / "in.parquet", store_schema=kind != pa.binary())
    row = json.loads(fused(tmp_path / "in.parquet", tmp_path / "out.jsonl").read_text())
    assert row == {"laion_2b": "café", "laion_coco": None, "capsfusion": "c"}


def test_int96_reaches_the_years_that_spark_writes(tmp_path: Path) -> None:
    far = pa.array([datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)], pa.timestamp("us"))
    source = parquet(tmp_path / "in.parquet", far, use_deprecated_int96_timestamps=True)
    assert pq.read_table(source)["other"].cast(pa.int64()).to_pylist() != far.cast(pa.int64()).to_pylist(), "wrapped"
    assert pq.read_table(fused(source, tmp_path / "out.parquet"))["other"].to_pylist() == far.to_pylist()
    lines = fused(source, tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["other"][:10] for line in lines] == ["9999-12-31", "0001-01-01"]


LATIN = pa.array([b"good", b"caf\xe9"]).view(pa.string())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (LATIN, "column other has text that is not UTF-8"),
        (pa.StructArray.from_arrays([LATIN], ["x"]), "column other has text that is not UTF-8"),
        (
            pa.array([0, 2**62], pa.timestamp("ms", "UTC")),
            "column other cannot be converted to JSON .*outside the years",
        ),
        (
            pa.StructArray.from_arrays([pa.array(["a", "b"])] * 2, ["x", "x"]),
            "column other cannot be converted to JSON .*duplicate",
        ),
        (pa.array([[0], [2**62]], pa.list_(pa.timestamp("ms"))), ".*outside the years -32767 to 32767"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz", ".csv"])
def test_what_a_target_cannot_hold_is_found_before_anything_is_written(
    tmp_path: Path, other: pa.Array, message: str, suffix: str
) -> None:
    file = open_caption_file(parquet(tmp_path / "in.parquet", other), COLUMNS, adds="capsfusion")
    with pytest.raises(InputError, match=rf"in\.parquet, rows 1 to 2: {message}"):
        check_target(tmp_path / f"out{suffix}", file)
    assert os.listdir(tmp_path) == ["in.parquet"]


@pytest.mark.parametrize(
    ("last", "target", "message"),
    [
        ('{"laion_2b": "a"}', "out.jsonl", "row 5001 has no laion_coco"),
        ('{"laion_2b', "out.csv", "row 5001 .* is not valid JSON"),
        (
            '{"laion_2b": "a", "laion_coco": "b", "n": 36893488147419103232}',
            "out.parquet",
            "'n' cannot become a column",
        ),
        *(
            (f'{{"laion_2b": "a", "laion_coco": "b", {more}}}', target, message)
            for more, target, message in [
                (r'"id": "x\ud800"', "out.csv", r"row 5001: column 'id' has a lone surrogate, .* ends in \.jsonl"),
                (r'"\ud800": 1', "out.csv", r"header: the name '\\ud800' has a lone surrogate"),
                (r'"id": "x\ud800"', "out.parquet", "'id' cannot become a column .*surrogates not allowed"),
                (r'"id": [{"a\ud800": 1}]', "out.parquet", "'id' cannot become a column .*surrogates not allowed"),
                (r'"\ud800": 1', "out.parquet", r"'\\ud800' cannot become a column"),
            ]
        ),
    ],
)
def test_a_bad_row_far_down_is_found_by_the_check(tmp_path: Path, last: str, target: str, message: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"laion_2b": "a", "laion_coco": "b", "n": 0.5}\n' * 5000 + last)
    file = open_caption_file(tmp_path / "in.jsonl", COLUMNS, adds="capsfusion")
    with pytest.raises(InputError, match=message):
        check_target(tmp_path / target, file)


def test_lone_surrogates_in_captions_become_spaces_where_the_target_cannot_hold_them(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(r'{"laion_2b": "a\ud800b", "laion_coco": null, "tags": ["\ud800"]}')
    row = r'a b,,"[""\ud800""]",c'
    assert fused(tmp_path / "in.jsonl", tmp_path / "out.csv").read_text().splitlines()[1] == row
    assert json.loads(fused(tmp_path / "in.jsonl", tmp_path / "out.json").read_text())[0]["laion_2b"] == "a\ud800b"
    (tmp_path / "in.jsonl").write_text(r'{"laion_2b": "a\ud800b", "laion_coco": null}')
    assert pq.read_table(fused(tmp_path / "in.jsonl", tmp_path / "out.parquet"))["laion_2b"].to_pylist() == ["a b"]


def test_a_path_that_the_system_refuses_is_bad_input(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"laion_2b": "a", "laion_coco": "b"}\n')
    for name in (f"{'a' * 250}.jsonl", f"{'a' * 260}/out.jsonl"):
        with pytest.raises(InputError, match=r"cannot read .*: File name too long; choose"):
            open_caption_file(tmp_path / name, COLUMNS)
        with pytest.raises(InputError, match=r"cannot write .*: File name too long; choose"):
            check_writable(tmp_path / name, overwrite=True, but=source)


@pytest.mark.parametrize("target", ["out.jsonl", "out.parquet"])
def test_a_caption_that_is_no_text_is_found_by_the_check(tmp_path: Path, target: str) -> None:
    for kind in (pa.string(), pa.binary()):
        captions = pa.array([b"a", b"caf\xe9"], pa.binary()).view(kind)
        pq.write_table(pa.table({"laion_2b": captions, "laion_coco": ["a", "b"]}), tmp_path / "in.parquet")
        file = open_caption_file(tmp_path / "in.parquet", COLUMNS, adds="capsfusion")
        with pytest.raises(InputError, match=r"in\.parquet, rows 1 to 2: column laion_2b must be text.*UTF8"):
            check_target(tmp_path / target, file)


def test_a_batch_that_arrow_cannot_write_is_found_by_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pa.list_(pa.struct([("a", pa.string_view())]))
    table = pa.table({**dict.fromkeys(COLUMNS, ["a"] * 3), "other": pa.array([None, [{"a": "x"}], []], kind)})
    pq.write_table(table.slice(1, 1), tmp_path / "in.parquet")
    file = open_caption_file(tmp_path / "in.parquet", COLUMNS, adds="capsfusion")
    check_target(tmp_path / "out.parquet", file)
    monkeypatch.setattr(parquet_file.ParquetFile, "tables", lambda self: iter([table]))
    with pytest.raises(InputError, match=r"in\.parquet cannot be written as Parquet to .*out\.parquet: .*StringView"):
        check_target(tmp_path / "out.parquet", file)


def test_damage_in_a_column_that_only_passes_through_is_found_by_the_check(tmp_path: Path) -> None:
    source = parquet(
        tmp_path / "in.parquet", pa.array([f"{n:06}" for n in range(5000)]), use_dictionary=False, compression=None
    )
    whole = source.read_bytes()
    at = whole.index(b"002500")
    source.write_bytes(whole[: at - 9000] + bytes(9000) + whole[at:])
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    assert sum(table.num_rows for table in file.captions(1000)) == 5000
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        check_target(tmp_path / "out.parquet", file)


def test_rows_with_images_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (parquet_file, row_file):
        monkeypatch.setattr(module, "GROUP_BYTES", 1 << 20)
    images = pa.array([{"bytes": os.urandom(100_000), "path": str(n)} for n in range(60)], STRUCT)
    source = parquet(tmp_path / "in.parquet", images, row_group_size=30)
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    assert max(table.num_rows for table in file.tables()) == 10
    assert [table.num_rows for table in file.captions(25)] == [25, 25, 10]
    lines = fused(source, tmp_path / "out.jsonl")
    assert (
        base64.b64decode(json.loads(lines.read_text().splitlines()[59])["other"]["bytes"])
        == images[59]["bytes"].as_py()
    )
    lines.write_text(lines.read_text().replace("capsfusion", "first"))
    again = open_caption_file(lines, COLUMNS, adds="capsfusion")
    assert {table.num_rows for table in again.tables()} == {8, 4}


def test_rows_far_longer_than_the_average_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = parquet(tmp_path / "in.parquet", pa.array(range(5000)))
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    iterate = pq.ParquetFile.iter_batches

    def as_with_long_rows_behind_row_3000(self: Any, size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in iterate(self, size, **options):
            if start + batch.num_rows > 3000 and size > 300:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            start += batch.num_rows
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", as_with_long_rows_behind_row_3000)
    for most_rows in (4000, 1000):
        monkeypatch.setattr(parquet_file, "GROUP_ROWS", most_rows)
        tables = list(file.tables())
        assert [n for table in tables for n in table["other"].to_pylist()] == list(range(5000))
    monkeypatch.setattr(parquet_file, "GROUP_ROWS", 5000)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter_failing())
    with pytest.raises(InputError, match="cannot be read as Parquet: never"):
        list(file.tables())


def iter_failing() -> Iterator[pa.RecordBatch]:
    raise pa.ArrowNotImplementedError("never")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("target_suffix", [".jsonl", ".csv", ".parquet"])
def test_a_source_that_changes_after_it_was_opened_is_refused_and_nothing_is_written(
    tmp_path: Path, suffix: str, target_suffix: str
) -> None:
    source = parquet(tmp_path / "first.parquet", pa.array([1, 2]))
    source = fused(source, tmp_path / f"in{suffix}")
    file = open_caption_file(source, COLUMNS, adds="again")
    os.utime(source, ns=(0, 0))
    target = tmp_path / f"out{target_suffix}"
    with pytest.raises(InputError, match=rf"in\{suffix} changed while it was read .*Run the same command again"):
        write_caption_file(target, file, ["c", "c"])
    with pytest.raises(InputError, match="changed while it was read"):
        check_target(target, file)
    assert sorted(os.listdir(tmp_path)) == sorted(["first.parquet", f"in{suffix}"])
