"""Prints query results in each format. Some values cannot be represented in JSON or as Python's dates."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from capsfusion_tasks.terminal import Format, print_rows

ROWS = pa.table(
    {
        "n": [float("nan"), float("inf"), 0.5],
        "nested": [[float("nan")], None, [1.0]],
        "day": pa.array([2932897, None, 0], pa.date32()),
        "text": [b"caf\xc3\xa9", b"", None],
        "bytes": [b"\xff", b"a", None],
    }
)


def test_json_has_null_for_numbers_that_it_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, "json")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"n": None, "nested": [None], "day": "10000-01-01", "text": "café", "bytes": "/w=="},
        {"n": None, "nested": None, "day": None, "text": "", "bytes": "YQ=="},
        {"n": 0.5, "nested": [1.0], "day": "1970-01-01", "text": None, "bytes": None},
    ]


@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_table_and_csv_show_the_same_values(form: Format, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    print_rows(ROWS, form)
    out = capfdbinary.readouterr().out.decode()
    for text in ("nan", "[null]", "10000-01-01", "café", "/w=="):
        assert text in out
