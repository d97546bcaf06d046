"""Tests the walk over the files below a folder, which shards and the files of `capsfusion fuse` share."""

from __future__ import annotations

import os
from pathlib import Path

from capsfusion_tasks.caption_files.inputs import InOut, inputs_and_outputs
from capsfusion_tasks.locations import is_hidden, walk
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.source import SourceFile, Unreadable


def tree(folder: Path) -> Path:
    """A folder whose links lead to other folders, to its own folders, to nowhere, and to hidden folders."""
    for file in ("in/1.json", "in/v3/2.json", "in/_old/3.json", "in/.cache/4.json", "disk2/5.json", "in/.6.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("[]")
    links = {
        "disk2": "../disk2",
        "latest": "v3",
        "up": "..",
        "data": ".cache",
        ".link": "../disk2",
        "dead.json": "gone",
    }
    for link, target in links.items():
        (folder / "in" / link).symlink_to(target)
    os.mkfifo(folder / "in" / "fifo.json")
    return folder / "in"


def test_each_folder_is_walked_once_and_links_last(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    asked: list[str] = []

    def leave_out(path: str, entry: os.DirEntry[str]) -> bool:
        asked.append(path)
        return is_hidden(entry.name)

    met = list(walk(folder, leave_out))
    assert [each.path for each in met] == [
        "1.json",
        "dead.json",
        "fifo.json",
        "v3/2.json",
        "data/4.json",
        "disk2/5.json",
    ]
    assert [each.path for each in met if isinstance(each.status, OSError)] == ["dead.json"]
    assert "_old" in asked
    assert "_old/3.json" not in asked
    [gone] = walk(tmp_path / "none", leave_out)
    assert isinstance(gone.status, FileNotFoundError)


def test_shards_and_inputs_are_the_files_of_the_walk(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    wanted: list[str] = []
    files = list(LocalSource(str(folder)).files(lambda path: bool(wanted.append(path)) or not is_hidden(path)))
    found = ["1.json", "v3/2.json", "data/4.json", "disk2/5.json"]
    assert [file.path for file in files if isinstance(file, SourceFile)] == found
    [dead] = [file for file in files if isinstance(file, Unreadable)]
    assert f"{folder / 'dead.json'} is a dead link" in str(dead)
    assert {"_old", ".cache", ".link", ".6.json"} <= {*wanted}, "hidden files are counted"

    out = tmp_path / "out"
    # The hidden folder itself is walked before the link to it, so its file is hidden here.
    expected = ["1.json", "disk2/5.json", "v3/2.json"]
    assert inputs_and_outputs([folder], out) == [InOut(folder / place, out / place) for place in expected]
