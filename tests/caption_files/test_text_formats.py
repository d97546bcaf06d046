"""Tests CSV, TSV, compressed and JSON files. A JSON file's content shows whether it is one array or lines."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.caption_files import check_target, open_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError

COLUMNS = ["laion_2b", "laion_coco"]
ROWS = [{"laion_2b": "a", "laion_coco": "b", "n": n} for n in range(3)]
ODD = ['said "so"', 'a, "b"', "two\nlines", "lone\rreturn", "both\r\nends", "tab\there", " spaces ", "\u2028é\x00", '"']


def fused(source: Path, target: Path) -> Path:
    file = open_caption_file(source, COLUMNS, adds="capsfusion")
    check_target(target, file)
    write_caption_file(target, file, [f"c{n}" for n, _ in enumerate(file.rows())])
    return target


def text_of(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".csv.gz", ".TSV"])
def test_fields_of_any_text_pass_through(tmp_path: Path, suffix: str) -> None:
    delimiter = "\t" if "tsv" in suffix.lower() else ","
    rows = [[text, "b", text] for text in [*ODD, "x" * 300_000]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter).writerows([[*COLUMNS, "a,\tname"], *rows])
    data = buffer.getvalue().encode("utf-8-sig")
    source = tmp_path / f"in{suffix}"
    source.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    assert open_caption_file(source, COLUMNS).captions(100).__next__()["laion_2b"].to_pylist() == [r[0] for r in rows]
    written = text_of(fused(source, tmp_path / f"out{suffix}"))
    found = list(csv.reader(io.StringIO(written, newline=""), delimiter=delimiter, strict=True))
    assert found == [[*COLUMNS, "a,\tname", "capsfusion"], *([*row, f"c{n}"] for n, row in enumerate(rows))]
    assert written.endswith(f"c{len(rows) - 1}\n")


def test_values_of_json_become_fields_and_fields_become_text(tmp_path: Path) -> None:
    rows = [
        {"laion_2b": "a", "laion_coco": None, "x": 1.5, "late": True},
        {"laion_2b": "", "laion_coco": "b", "x": {"y": ["é", float("nan")]}, "late": None},
        {"laion_2b": "a", "laion_coco": "b", "x": float("inf")},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = fused(tmp_path / "in.jsonl", tmp_path / "out.csv")
    lines = ["laion_2b,laion_coco,x,late,capsfusion", "a,,1.5,true,c0", ',b,"{""y"": [""é"", null]}",,c1', "a,b,,,c2"]
    assert target.read_text() == "\n".join(lines) + "\n"
    target.rename(tmp_path / "again.csv")
    target.write_text((tmp_path / "again.csv").read_text().replace("capsfusion", "first"))
    written = pq.read_table(fused(target, tmp_path / "out.parquet"))
    assert {str(kind) for kind in written.schema.types} == {"string"}
    assert written["x"].to_pylist() == ["1.5", '{"y": ["é", null]}', ""]


def test_a_table_without_rows_keeps_its_header(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("laion_2b,laion_coco,n\n")
    assert fused(tmp_path / "in.csv", tmp_path / "out.tsv").read_text() == "laion_2b\tlaion_coco\tn\tcapsfusion\n"
    assert fused(tmp_path / "in.csv", tmp_path / "out.jsonl").read_text() == ""
    names = pq.read_table(fused(tmp_path / "in.csv", tmp_path / "out.parquet")).column_names
    assert names == ["laion_2b", "laion_coco", "n", "capsfusion"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; its first line must be a header"),
        (b"\r\nlaion_2b,laion_coco\na,b\n", "begins with a blank line; its first line must be a header"),
        (b"laion_2b;laion_coco\na;b\n", "separates its columns with ';', but the ending of its name requires ','"),
        (b"laion_2b,laion_coco,x,x\n", "has these column names twice: x"),
        (b"laion_2b,laion_coco\na,b\na,b,c\n", "row 2 has 3 fields, but the header has 2: quote fields"),
        (b"laion_2b,laion_coco\n\na,b\na\n", "row 2 has 1 fields, but the header has 2"),
        (b'laion_2b,laion_coco\na,"b" c\n', "row 1 is not valid: .* write each quote inside a quoted field twice"),
        (b'laion_2b,laion_coco\na,"b\n', "row 1 is not valid: unexpected end of data"),
        (b"laion_2b,laion_coco\na,caf\xe9\n", "is not UTF-8"),
        ("laion_2b,laion_coco\n".encode("utf-16"), "is not UTF-8"),
        (b"laion_2b,laion_coco,capsfusion\n", "already has a column capsfusion"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        fused(tmp_path / "in.csv", tmp_path / "out.csv")


# gzip


def test_compressed_files_are_told_by_their_content_and_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    # Wget may save a response in the compressed form in which the server sent it.
    (tmp_path / "in.jsonl").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "in.jsonl.gz").write_text(text)  # as if a browser had decompressed the file and kept its name
    packed = [fused(tmp_path / f"in.{end}", tmp_path / f"{end}.out.jsonl.gz") for end in ("jsonl", "jsonl.gz")]
    expected = [{**row, "capsfusion": f"c{n}"} for n, row in enumerate(ROWS)]
    assert [json.loads(line) for line in text_of(packed[0]).splitlines()] == expected
    assert packed[0].read_bytes() == packed[1].read_bytes()
    assert json.loads(text_of(fused(tmp_path / "in.jsonl", tmp_path / "out.json.gz"))) == expected


def test_a_compressed_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps({**row, "x": n}) + "\n" for n, row in enumerate(ROWS * 1000)).encode())
    for damaged in (whole[:-50], whole[:2000] + bytes(100) + whole[2100:], whole[:2] + b"no gzip"):
        (tmp_path / "in.jsonl.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"in\.jsonl\.gz (cannot be decompressed|.* is not valid JSON)"):
            fused(tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl")
    (tmp_path / "in.parquet.gz").touch()
    with pytest.raises(InputError, match="must end in"):
        open_caption_file(tmp_path / "in.parquet.gz", COLUMNS)


def test_a_row_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capsfusion_tasks.caption_files.json_rows._LONGEST_ROW", 5 << 20)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b'{"laion_2b": "' + b"x" * (20 << 20)))
    with pytest.raises(InputError, match="row 1 is longer than 5,242,880 characters"):
        open_caption_file(tmp_path / "in.jsonl.gz", COLUMNS)


# ---- JSON whose kind is recognised by its content ----


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(map(json.dumps, ROWS)),
        "\r\n\r\n".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        "".join(map(json.dumps, ROWS)),
    ],
    ids=["list", "list over lines", "lines", "lines of Windows", "objects over lines", "objects without lines"],
)
def test_a_list_and_objects_one_after_another_are_read_under_any_name(tmp_path: Path, suffix: str, text: str) -> None:
    (tmp_path / f"in{suffix}").write_text(text)
    assert list(open_caption_file(tmp_path / f"in{suffix}", COLUMNS).rows()) == ROWS


def test_one_object_is_a_row_of_lines_and_no_list(tmp_path: Path) -> None:
    row: dict[str, Any] = {**ROWS[0], "x": [{}]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row, indent=1))
    assert list(open_caption_file(tmp_path / "in.jsonl", COLUMNS).rows()) == [row]
    (tmp_path / "in.json").write_text(json.dumps({"data": ROWS}))
    with pytest.raises(InputError, match="contains one object; expected a list of objects, or an object on each line"):
        open_caption_file(tmp_path / "in.json", COLUMNS)
