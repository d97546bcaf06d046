"""Tests captions for which a rule once took hours. All rules together must end within a minute."""

from __future__ import annotations

import pyarrow as pa
import pytest

from capsfusion_tasks.validation.validate import validate_table

MANY = 400_000  # characters
SOUND = "A red car with 2 doors in Berlin."


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sign", ["( ", "_", "* * ", ".", "-", "—", "[", "</", "**a", "a-", "A.", "1,0"])
def test_signs_without_end(sign: str) -> None:
    text = (sign * MANY)[:MANY]
    rows = {"laion_2b": [text, SOUND, SOUND], "laion_coco": [SOUND, text, SOUND], "capsfusion": [SOUND, SOUND, text]}
    assert validate_table(pa.table(rows)).num_rows == 3
