"""A summary has the contents of many small files. Files in the summary are read again only if they have changed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from capsfusion_tasks.staging import summaries
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.staging.summaries import Summaries

HOUR = 3600


class Files:
    """Files with one number each, read through a summary. ``opened``: the files that the last ``facts()`` opened."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, Storage(str(folder))
        self.summaries = Summaries(self.storage, "summaries/numbers")
        self.opened: list[str] = []

    def write(self, name: str, number: int) -> None:
        self.summaries.note_change(name)
        self.storage.write_json(f"numbers/{name}", number)

    def delete(self, name: str) -> None:
        self.summaries.note_change(name)
        self.storage.delete(f"numbers/{name}")

    def facts(self) -> dict[str, Any]:
        self.opened = []
        names = [path.rpartition("/")[2] for path in self.storage.files("numbers")]
        return self.summaries.facts(names, self._read)

    def _read(self, name: str) -> Any:
        self.opened.append(name)
        return self.storage.read_json(f"numbers/{name}")

    def pass_time(self, hours: float) -> None:
        for change in (self.folder / "summaries/numbers/changes").iterdir():
            os.utime(change, times=(time.time() - hours * HOUR,) * 2)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(summaries, "_WORTH_WRITING", 2)
    made = Files(tmp_path)
    for number in range(4):
        made.write(f"{number}", number)
    made.pass_time(hours=2)
    assert made.facts() == {f"{number}": number for number in range(4)}
    assert len(made.opened) == 4
    return made


def test_files_of_the_summary_are_not_opened_again(files: Files) -> None:
    assert files.facts() == {f"{number}": number for number in range(4)}
    assert files.opened == []
    files.write("new", 9)
    assert files.facts()["new"] == 9
    assert files.opened == ["new"]


def test_a_damaged_summary_is_written_again(files: Files) -> None:
    (files.folder / "summaries/numbers/summary.json").write_bytes(b"")
    assert files.facts() == {f"{number}": number for number in range(4)}
    assert files.facts() == {f"{number}": number for number in range(4)}
    assert files.opened == []


def test_a_changed_file_is_opened_whenever_its_change_was_noted(files: Files) -> None:
    files.write("1", 7)
    for hours in (0, 2, 2, 48):
        files.pass_time(hours)
        assert files.facts()["1"] == 7


def test_a_deleted_file_that_comes_back_is_opened(files: Files) -> None:
    files.delete("1")
    files.pass_time(hours=2)
    assert "1" not in files.facts()
    files.write("1", 8)
    assert files.facts()["1"] == 8


def test_what_is_written_between_a_note_and_the_file_is_not_believed(files: Files) -> None:
    """A writer records a change, then changes the file. A reader in between must not take the old content as new."""
    files.summaries.note_change("1")
    files.write("a", 5)
    files.write("b", 6)
    assert files.facts()["1"] == 1
    files.storage.write_json("numbers/1", 7)
    assert files.facts()["1"] == 7


def test_changes_are_deleted_when_a_summary_has_them_for_a_day(files: Files) -> None:
    files.write("a", 5)
    files.write("b", 6)
    files.pass_time(hours=48)
    files.facts()
    assert list((files.folder / "summaries/numbers/changes").iterdir()) == []
    assert files.facts()["a"] == 5
    assert files.opened == []
