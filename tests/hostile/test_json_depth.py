"""Each reader and writer refuses deeply nested JSON with a clear error."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.caption_files import open_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError


def written(folder: Path, value: str, suffix: str, target: str) -> Path:
    """Read a row with both captions and ``value`` in a further column, and write it with a fused caption."""
    row = f'{{"laion_2b": "a", "laion_coco": "b", "x": {value}}}'
    (folder / f"in{suffix}").write_text(f"[{row}]" if suffix == ".json" else row + "\n")
    source = open_caption_file(folder / f"in{suffix}", ["laion_2b", "laion_coco"], adds="capsfusion")
    write_caption_file(folder / f"out{target}", source, ["c"])
    return folder / f"out{target}"


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [40, 300, 600, 800, 100_000])
def test_depth(tmp_path: Path, suffix: str, opening: str, closing: str, depth: int) -> None:
    value = f"{opening * depth}1{closing * depth}"
    # Python can parse JSON of less than about 1,000 levels.
    if depth < 1000:
        assert value.replace(" ", "") in written(tmp_path, value, suffix, ".jsonl").read_text().replace(" ", "")
    else:
        with pytest.raises(InputError, match="is not valid JSON: maximum recursion depth"):
            written(tmp_path, value, suffix, ".jsonl")
    if depth == 40:
        assert pq.read_table(written(tmp_path, value, suffix, ".parquet")).num_rows == 1
    else:
        # A Parquet file cannot contain so many levels. The error must come before a file is written.
        with pytest.raises(InputError):
            written(tmp_path, value, suffix, ".parquet")
        assert not (tmp_path / "out.parquet").exists()
