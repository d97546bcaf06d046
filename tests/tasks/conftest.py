from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.place import Place, write


@pytest.fixture
def place(tmp_path: Path, warehouse_url: str) -> Place:
    for name, numbers in {"a": range(6), "b": range(6, 9)}.items():
        write(tmp_path / "raw" / f"{name}.parquet", numbers)
        write(tmp_path / "coco" / f"{name}.parquet", numbers, caption="a kite in the sky", text="red kite")
    write(tmp_path / "other" / "a.parquet", range(2, 5))
    write(tmp_path / "other-coco" / "a.parquet", range(2, 5), caption="a kite")
    return Place(tmp_path, warehouse_url)
