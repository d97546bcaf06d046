from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from capsfusion_tasks.demo.sample_data import write_sample_data
from tests.faults import disks


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample shards of three days, in the folders ``laion-2b`` and ``laion-coco``."""
    folder = tmp_path_factory.mktemp("shards")
    write_sample_data(folder, rows_per_day=20)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 16 MB."""
    if why := disks.why_none():
        pytest.skip(why)
    with disks.disk(tmp_path / "disk", 16) as mounted:
        yield mounted
