"""Tests users' caption files of any size, in three formats."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsfusion_tasks.caption_files import CaptionFile, json_rows, open_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError

COLUMNS = ["laion_2b", "laion_coco"]
SUFFIXES = (".json", ".jsonl", ".parquet")


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"key": n, "laion_2b": f"raw {n}", "laion_coco": f"synthetic {n}" if n % 7 else None} for n in range(count)]


def write(path: Path, rows: list[Any], **options: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, **options)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, **options))
    else:
        path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows))
    return path


def read(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.split("\n")[:-1]]


def read_all(file: CaptionFile) -> list[dict[str, Any]]:
    return [row for table in file.captions(1000) for row in table.to_pylist()]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsfusion_tasks.caption_files.row_file.GROUP_ROWS", 100)
    monkeypatch.setattr("capsfusion_tasks.caption_files.parquet_file.GROUP_ROWS", 100)


# Reading


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_captions_come_in_batches_of_the_size_asked_for_and_as_often_as_asked(tmp_path: Path, suffix: str) -> None:
    file = open_caption_file(write(tmp_path / f"in{suffix}", pairs(2500)), COLUMNS)
    for batch_rows, sizes in [(1000, [1000, 1000, 500]), (1250, [1250, 1250]), (9999, [2500])]:
        tables = list(file.captions(batch_rows))
        assert [table.num_rows for table in tables] == sizes
        assert {str(table.schema) for table in tables} == {"laion_2b: string\nlaion_coco: string"}
        expected = [{name: row[name] for name in COLUMNS} for row in pairs(2500)]
        assert [row for table in tables for row in table.to_pylist()] == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_without_rows_has_no_captions(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"in{suffix}", [])
    if suffix == ".parquet":
        pq.write_table(pa.table({name: pa.array([], pa.string()) for name in COLUMNS}), source)
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    assert list(file.captions(10)) == []
    for target in (tmp_path / "out.json", tmp_path / "out.jsonl", tmp_path / "out.parquet"):
        write_caption_file(target, file, [])
        assert read(target) == []


def test_batches_have_their_size_where_each_row_group_has_a_dictionary_of_its_own(tmp_path: Path) -> None:
    dictionaries = [pa.array([f"a{n // 7}" for n in range(i, i + 70)]).dictionary_encode() for i in range(0, 350, 70)]
    table = pa.table({"laion_2b": pa.chunked_array(dictionaries), "key": pa.array(range(350), pa.int16())})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=70)
    tables = list(open_caption_file(tmp_path / "in.parquet", ["laion_2b"], key="key").captions(100))
    assert [table.num_rows for table in tables] == [100, 100, 100, 50]
    assert pa.concat_tables(tables).to_pylist() == [{"laion_2b": f"a{n // 7}", "key": str(n)} for n in range(350)]


def test_lone_surrogates_of_json_become_spaces_in_captions(tmp_path: Path) -> None:
    rows = [{"laion_2b": "a\ud800\ud800b", "laion_coco": "\u2028 \U0001f600 \x00"}]
    for suffix in (".json", ".jsonl"):
        assert read_all(open_caption_file(write(tmp_path / f"in{suffix}", rows), COLUMNS)) == [
            {"laion_2b": "a b", "laion_coco": "\u2028 \U0001f600 \x00"}
        ]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_byte_order_mark_and_windows_line_ends_and_blank_lines_do_no_harm(tmp_path: Path, suffix: str) -> None:
    lines = ['{"laion_2b": "a", "laion_coco": "b"}'] * 2
    text = "\r\n \r\n".join(lines) if suffix == ".jsonl" else "[" + ",\r\n\r\n".join(lines) + "]"
    (tmp_path / f"in{suffix}").write_bytes(f"\r\n{text}\r\n".encode("utf-8-sig"))
    assert len(read_all(open_caption_file(tmp_path / f"in{suffix}", COLUMNS))) == 2


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    value=st.lists(JSON_VALUES, max_size=4),
    indent=st.sampled_from([None, 1]),
    piece=st.integers(1, 40),
    end=st.floats(0, 1, exclude_max=True),
)
def test_a_list_in_pieces_is_what_json_loads_reads_and_a_truncated_one_is_refused(
    tmp_path_factory: pytest.TempPathFactory, value: list[Any], indent: int | None, piece: int, end: float
) -> None:
    text = json.dumps(value, indent=indent)
    try:
        data = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        data = text.encode()
    file = tmp_path_factory.getbasetemp() / "pieces.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_PIECE", piece)
        file.write_bytes(data)
        assert repr([row for row, _ in json_rows.json_rows(file)]) == repr(json.loads(text))
        file.write_bytes(data[: int(len(data) * end)])
        with pytest.raises(InputError):
            list(json_rows.json_rows(file))


# Errors


GOOD = '{"laion_2b": "a", "laion_coco": "b"}'


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", "", "in.json is empty; expected a list of objects"),
        (".json", GOOD, "in.json contains one object; expected a list of objects"),
        (".json", "hello", "in.json is not valid JSON: it starts with 'h'; expected a list"),
        (".json", f"[{GOOD}, 7]", "row 2: expected an object, got 7"),
        (".json", f"[{GOOD},\n{GOOD}", r"row 2 \(line 2\) is not valid JSON: expected , or ] .* the end of the file"),
        (".json", f"[{GOOD},\n{GOOD[:-9]}", r"row 2 \(line 2\) is not valid JSON: Unterminated string"),
        (".json", f"[{GOOD}, ", "row 2 .* the end of the file"),
        (".json", f"[{GOOD}, ]", r"row 2 .*found '\]'"),
        (".json", f"[{GOOD} {GOOD}]", "row 1 .* expected , or ] after the value, found '{"),
        (".json", f"[{GOOD}] {GOOD}", "row 1 .* expected the end of the file after the list"),
        (".json", f"[\n{GOOD},\n{{'a': 1}}]", r"row 2 \(line 3\) is not valid JSON: Expecting property name"),
        (".json", "[" * 200_000, r"row 1 \(line 1\) is not valid JSON: .*recursion"),
        (".json", f"[{GOOD}, {{'a': {'9' * 5000}}}]".replace("'", '"'), "row 2 .*Exceeds the limit"),
        (".json", f"[{GOOD}, \xff]".encode("latin-1"), "is not UTF-8 at byte 39: invalid start byte"),
        (".json", f"[{GOOD}, \xc3".encode("latin-1"), "is not UTF-8 at byte 39: unexpected end of data"),
        (".jsonl", f"{GOOD}\n\n{GOOD[:-1]}", r"row 2 \(line 3\) is not valid JSON: Expecting ',' delimiter"),
        (".jsonl", f"{GOOD}\n\xff".encode("latin-1"), "is not UTF-8 at byte 37: invalid start byte"),
        (".jsonl", f"{GOOD}\n[{GOOD}]", "row 2: expected an object, got \\["),
        (".jsonl", f"[{GOOD}]\n[{GOOD}]", "expected the end of the file after the list"),
        (".jsonl", "7", "is not valid JSON: it starts with '7'; expected a list of objects, or an object on each line"),
        (".jsonl", '{"laion_2b": ["a"], "laion_coco": "b"}', r"row 1: laion_2b must be text, but is \['a'\]"),
        (".jsonl", '{"laion_2b": "a"}', "row 1 has no laion_coco; it has laion_2b"),
        (
            ".jsonl",
            f'{GOOD}\n\n{GOOD[:-1]}, "laion_2b": "c"}}',
            r"row 2 \(line 3\) has the key 'laion_2b' more than once:",
        ),
        (
            ".json",
            f'[{GOOD}, {GOOD[:-1]}, "x": 1, "x": 1, "x": 1}}]',
            r"row 2 \(line 1\) has the key 'x' more than once",
        ),
        (
            ".jsonl",
            f'{GOOD[:-1]}, "x": [{{"y": 1, "\\u0079": 2}}]}}',
            r"row 1 \(line 1\) has the key 'y' more than once",
        ),
        (".jsonl", "{}", "row 1 has no laion_2b and no laion_coco; it has no columns"),
        (".parquet", "PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, suffix: str, content: str | bytes, message: str) -> None:
    (tmp_path / f"in{suffix}").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_all(open_caption_file(tmp_path / f"in{suffix}", COLUMNS))


def test_a_file_that_is_not_there_or_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*in\.json"):
        open_caption_file(tmp_path / "in.json", COLUMNS)
    (tmp_path / "in.json").mkdir()
    with pytest.raises(InputError, match=r"in\.json is a folder: give a regular file"):
        open_caption_file(tmp_path / "in.json", COLUMNS)
    os.mkfifo(tmp_path / "in.csv")
    with pytest.raises(InputError, match=r"in\.csv is a pipe or a device: give a regular file"):
        open_caption_file(tmp_path / "in.csv", COLUMNS)
    (tmp_path / "in.csv.zip").touch()
    with pytest.raises(
        InputError, match=r"cannot read .*in\.csv\.zip: its name must end in .json, .jsonl, .ndjson, .csv"
    ):
        open_caption_file(tmp_path / "in.csv.zip", COLUMNS)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"laion_2b": "a"}, "row 5000 has no laion_coco"),
        ({"laion_2b": "a", "laion_coco": 7}, "row 5000: laion_coco must be text, but is 7"),
        ([1, 2], r"row 5000: expected an object, got \[1, 2\]"),
        ({"laion_2b": "a", "laion_coco": "b", "capsfusion": "c"}, "row 5000 already has a column capsfusion"),
    ],
)
def test_a_row_far_down_is_refused_when_it_comes_and_nothing_is_written(
    tmp_path: Path, suffix: str, row: Any, message: str
) -> None:
    rows: list[Any] = pairs(6000)
    rows[4999] = row
    file = open_caption_file(write(tmp_path / f"in{suffix}", rows), COLUMNS, adds="capsfusion")
    (tmp_path / "out.json").write_text("precious")
    with pytest.raises(InputError, match=message):
        read_all(file)
    for target in ("out.json", "out.parquet"):
        with pytest.raises(InputError, match=message):
            write_caption_file(tmp_path / target, file, ["x"] * 6000)
    assert (tmp_path / "out.json").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == sorted([f"in{suffix}", "out.json"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_column_that_would_be_overwritten_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"in{suffix}", [{**row, "capsfusion": "c"} for row in pairs(3)])
    with pytest.raises(InputError, match=r"already has a column capsfusion; rename or drop it"):
        open_caption_file(source, COLUMNS, adds="capsfusion")


def test_parquet_without_the_columns_or_with_other_types_is_refused_at_once(tmp_path: Path) -> None:
    def refused(table: pa.Table, message: str) -> None:
        pq.write_table(table, tmp_path / "in.parquet")
        with pytest.raises(InputError, match=message):
            open_caption_file(tmp_path / "in.parquet", COLUMNS)

    refused(pa.table({"laion_2b": ["a"]}), "has no laion_coco; it has laion_2b")
    dates, fixed = pa.array([1], pa.date32()), pa.array([b"a"], pa.binary(1))
    others = {"list": [["a"]], "int64": [1], "double": [0.5], "bool": [True], "date32": dates, "fixed_size": fixed}
    for kind, other in others.items():
        refused(pa.table({"laion_2b": ["a"], "laion_coco": other}), f"column laion_coco must be text, but is {kind}")
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["laion_2b", "laion_coco", "laion_2b"])
    refused(twice, "has these column names twice: laion_2b")


def test_parquet_that_is_truncated_or_damaged_or_not_utf8_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", pairs(5000), compression="zstd")
    whole = source.read_bytes()
    source.write_bytes(whole[:-100])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        open_caption_file(source, COLUMNS)
    source.write_bytes(bytes(100) + whole[100:])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_all(open_caption_file(source, COLUMNS, key="key"))

    latin = pa.array([b"a"] * 1500 + [b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"laion_2b": latin, "laion_coco": latin}), source)
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    with pytest.raises(InputError, match=r"rows 1001 to 1501: column laion_2b must be text.*UTF8"):
        read_all(file)
    with pytest.raises(InputError, match=r"rows 1 to 1501: column laion_2b must be text.*UTF8"):
        write_caption_file(tmp_path / "out.json", file, ["x"] * 1501)


# Writing


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("source_suffix", SUFFIXES)
@pytest.mark.parametrize("target_suffix", SUFFIXES)
def test_every_format_becomes_every_format(tmp_path: Path, source_suffix: str, target_suffix: str) -> None:
    rows = [{**row, "extra": {"n": [row["key"], None]}} for row in pairs(250)]
    file = open_caption_file(write(tmp_path / f"in{source_suffix}", rows), COLUMNS, adds="capsfusion")
    values = [f"caption {n}" if n % 3 else None for n in range(250)]
    target = tmp_path / f"out{target_suffix}"
    write_caption_file(target, file, iter(values))
    assert read(target) == [{**row, "capsfusion": value} for row, value in zip(rows, values, strict=True)]


def strict(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@pytest.mark.parametrize("source_suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("target_suffix", [".json", ".jsonl"])
def test_json_passes_through_as_it_is_and_numbers_that_json_cannot_hold_become_null(
    tmp_path: Path, source_suffix: str, target_suffix: str
) -> None:
    text = (
        r'{"laion_2b": "a\ud800", "laion_coco": "\u2028\u0000\u00e9", "n": [1, 1.0, NaN, {"x": -Infinity}, 1E400, '
        r'1e-7, 123456789012345678901234567890], "empty": {}, "\udfff": null, "big": "' + "x" * 3_000_000 + '"}'
    )
    source = tmp_path / f"in{source_suffix}"
    source.write_text(f"[{text}, {text}]" if source_suffix == ".json" else f"{text}\n{text}\n")
    target = tmp_path / f"out{target_suffix}"
    write_caption_file(target, open_caption_file(source, COLUMNS, adds="c"), ["1", None])
    written = target.read_text()
    rows = written.split("\n")[:-1] if target_suffix == ".jsonl" else [written]
    found = [json.loads(row, parse_constant=strict) for row in rows]
    row = json.loads(text.replace("NaN", "null").replace("-Infinity", "null").replace("1E400", "null"))
    expected = [{**row, "c": "1"}, {**row, "c": None}]
    assert repr(found if target_suffix == ".jsonl" else found[0]) == repr(expected)


@pytest.mark.usefixtures("small_groups")
def test_parquet_keeps_its_schema_and_metadata(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("laion_2b", pa.large_string(), nullable=False, metadata={"from": "LAION-2B"}),
            pa.field("laion_coco", pa.dictionary(pa.int32(), pa.string())),
            pa.field("when", pa.timestamp("us", "UTC")),
        ],
        metadata={"made by": "someone"},
    )
    columns = [[f"a{n}" for n in range(250)], [f"b{n // 9}" for n in range(250)], [None, *range(249)]]
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=70)
    file = open_caption_file(tmp_path / "in.parquet", COLUMNS, adds="capsfusion")
    write_caption_file(tmp_path / "out.parquet", file, (str(n) for n in range(250)))
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.equals(schema.append(pa.field("capsfusion", pa.string())), check_metadata=True)
    assert written.drop_columns("capsfusion").equals(table)
    assert written["capsfusion"].to_pylist() == [str(n) for n in range(250)]


@pytest.mark.parametrize("source_suffix", SUFFIXES)
@pytest.mark.parametrize("target_suffix", SUFFIXES)
@pytest.mark.parametrize("values", [9, 11])
def test_too_few_or_too_many_values_leave_the_target_as_it_was(
    tmp_path: Path, source_suffix: str, target_suffix: str, values: int
) -> None:
    file = open_caption_file(write(tmp_path / f"in{source_suffix}", pairs(10)), COLUMNS, adds="capsfusion")
    target = tmp_path / f"out{target_suffix}"
    target.write_text("precious")
    with pytest.raises(ValueError):  # noqa: PT011 (Arrow's words or zip's)
        write_caption_file(target, file, iter(["x"] * values))
    assert target.read_text() == "precious"
    assert len(os.listdir(tmp_path)) == 2


# ---- Writing rows of JSON as Parquet ----


def to_parquet(folder: Path, rows: list[dict[str, Any]]) -> pa.Table:
    rows = [{"laion_2b": "a", "laion_coco": "b", **row} for row in rows]
    file = open_caption_file(write(folder / "in.jsonl", rows), COLUMNS, adds="capsfusion")
    write_caption_file(folder / "out.parquet", file, ["c"] * len(rows))
    return pq.read_table(folder / "out.parquet")


@pytest.mark.usefixtures("small_groups")
def test_the_schema_covers_rows_of_all_batches(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"n": 1, "deep": {"a": None}, "tags": []}] * 250
    rows[120] = {"n": 2, "deep": {"b": "x"}, "tags": ["t"]}
    rows[240] = {"n": 0.5, "deep": {"a": 1}, "late": "column"}
    written = to_parquet(tmp_path, rows)
    assert written.schema.names == ["laion_2b", "laion_coco", "n", "deep", "tags", "late", "capsfusion"]
    assert written.schema.field("n").type == pa.float64()
    assert written["deep"][120].as_py() == {"a": None, "b": "x"}
    assert written["deep"][240].as_py() == {"a": 1, "b": None}
    assert written["tags"][120].as_py() == ["t"]
    assert written["late"].to_pylist() == [None] * 240 + ["column"] + [None] * 9


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    ("value", "row", "where"),
    [("text", 30, "rows 1 to 100: 'n'"), ("text", 130, "rows 101 to 200: 'n'"), (2**64, 249, "rows 201 to 250: 'n'")],
)
def test_values_that_no_column_holds_are_refused_with_their_place(
    tmp_path: Path, value: Any, row: int, where: str
) -> None:
    rows = [{"n": n} for n in range(250)]
    rows[row] = {"n": value}
    with pytest.raises(InputError, match=rf"{where} cannot become a column of Parquet: .*\.jsonl for the output"):
        to_parquet(tmp_path, rows)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_an_object_that_is_always_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"struct.*x.*choose a name that ends in \.jsonl"):
        to_parquet(tmp_path, [{"x": {}}])


# Memory


PASSES = """
    import sys
    from pathlib import Path
    from capsfusion_tasks.caption_files import open_caption_file, parquet_file, row_file, write_caption_file

    row_file.GROUP_ROWS = parquet_file.GROUP_ROWS = 500
    source = Path(sys.argv[1])
    file = open_caption_file(source, ["laion_2b", "laion_coco"], adds="capsfusion")
    rows = sum(table.num_rows for table in file.captions(500))
    for target in ("out.json", "out.parquet"):
        write_caption_file(source.with_name(target), file, ("a caption" for _ in range(rows)))
    status = Path("/proc/self/status").read_text()  # not getrusage: its maximum is inherited from the parent
    print(rows, status.partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_twenty_times_the_rows_need_no_more_memory(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(0)
    peaks = []
    for count in (2_000, 40_000):
        rows = [{name: rng.randbytes(300).hex() for name in COLUMNS} for _ in range(count)]
        source = write(tmp_path / f"in{suffix}", rows)  # a Parquet file gets only one row group
        command = [sys.executable, "-c", textwrap.dedent(PASSES), source]
        # Use the system's allocator. Arrow's own allocator keeps tens of MB of free memory, and the amount varies.
        env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        read_rows, kib = map(int, done.stdout.split())
        assert read_rows == count
        peaks.append(kib / 1024)
    # If all 40,000 rows were in memory, they would take another 46 MB as Arrow, or 60 MB as Python objects.
    assert peaks[1] < 1.1 * peaks[0] + 8, f"MB: {peaks}"
