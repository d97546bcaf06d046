"""Summaries: one file with facts about many small files (such as shard lists), so that readers need not open each one.

Readers write the summaries. Before a writer changes a small file, it writes a note of this change. A summary lists the
notes of the changes that its facts include. If a file has a note that the summary does not list, the reader reads the
file itself. So no reader gets wrong facts if a summary is deleted, outdated, or written by two readers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage, StoredFile

_READERS = 16  # number of files read in parallel, because on S3 each read takes a round trip
_WORTH_WRITING = 16  # write a summary after reading this many files; reading fewer is as fast as writing a summary
# A summary lists a note only if the note is at least an hour old. The writer changes the file after writing the note,
# and a summary made in between has the old facts. A note is deleted after a day. By then, no reader that began before
# the change is still running.
_SETTLED = timedelta(hours=1)
_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True)
class Summaries:
    """A summary of small files. ``folder`` has the summary and the notes. A name identifies each small file."""

    storage: Storage
    folder: str

    def note_change(self, name: str) -> None:
        """Record that a file changes. Call this before writing or deleting the file. A new file needs no note."""
        self.storage.write_json(f"{self._changes}/{name}.{uuid4().hex}", {})

    def facts(self, names: Collection[str], read: Callable[[str], Any]) -> dict[str, Any]:
        """The JSON value that ``read`` returns for each of ``names``. Calls ``read`` only for new and changed files."""
        # List the notes before reading files. If a file changes during this call, its note is not in this list, so the
        # next call reads the file again.
        changes = self.storage.tree(self._changes)
        seen, known = self._read()
        changed = {_file(change) for change in changes if change.path not in seen}
        wanted = set(names)
        facts = {name: fact for name, fact in known.items() if name in wanted - changed}
        missing = sorted(wanted - facts.keys())
        facts |= zip(missing, read_ahead(read, missing, _READERS), strict=True)
        now = datetime.now(UTC)
        young = {_file(change) for change in changes if change.modified > now - _SETTLED}
        if len(set(missing) - young) >= _WORTH_WRITING:
            settled = [change for change in changes if change.modified <= now - _SETTLED]
            self._write({name: fact for name, fact in facts.items() if name not in young}, settled)
            for change in settled:
                if change.modified <= now - _FORGOTTEN:
                    with suppress(FileNotFoundError):  # another reader has deleted the note
                        self.storage.delete(change.path)
        return facts

    @property
    def _changes(self) -> str:
        return f"{self.folder}/changes"

    @property
    def _path(self) -> str:
        return f"{self.folder}/summary.json"

    def _read(self) -> tuple[set[str], dict[str, Any]]:
        """The paths of the notes that the summary lists, and the facts about each file, by the file's name."""
        try:
            summary = self.storage.read_json(self._path)
        except (FileNotFoundError, InputError):  # a damaged summary is written again, like a missing one
            return set(), {}
        return set(summary["seen"]), {name: summary["facts"][number] for name, number in summary["names"].items()}

    def _write(self, facts: dict[str, Any], seen: list[StoredFile]) -> None:
        different: list[Any] = []  # equal consecutive facts are stored once, because many files have equal facts
        names = {}
        for name, fact in facts.items():
            if not different or fact != different[-1]:
                different.append(fact)
            names[name] = len(different) - 1
        summary = {"seen": [change.path for change in seen], "names": names, "facts": different}
        self.storage.write_json(self._path, summary)


def _file(change: StoredFile) -> str:
    """The name of the file that the note ``change`` is about."""
    return change.path.rpartition("/")[2].rpartition(".")[0]
