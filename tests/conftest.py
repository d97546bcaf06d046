"""Fixtures that several stages' tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def published_pairs() -> list[dict[str, Any]]:
    """5,000 pairs of CapsFusion's authors: laion_2b, laion_coco and their model's caption, capsfusion_official."""
    path = SHARED_DATA / "capsfusion_pairs.jsonl"
    if not path.exists():
        pytest.skip(f"the published pairs are not here: no {path}")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
