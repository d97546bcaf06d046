from __future__ import annotations

import json
from pathlib import Path

import pytest

PAIRS = [
    {"laion_2b": f"Vlylun {n} Crossing ® photo {'x' * (n % 7)}", "laion_coco": f"A street with {n} cars on it."}
    for n in range(50)
]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """A file with 50 pairs and two other columns, ``key`` and ``extra``, which outputs must keep."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"key": f"k{n}", **pair, "extra": {"n": [n, None]}} for n, pair in enumerate(PAIRS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
