"""The files of the staging area that a check examines: all files, or those of some intervals, shards and units."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from capsfusion_tasks.staging.storage import StoredFile


class Listing:
    """Files of the staging area, by path."""

    def __init__(self, files: Iterable[StoredFile]) -> None:
        self._files = sorted(files, key=lambda file: file.path)
        self._paths = [file.path for file in self._files]

    def __iter__(self) -> Iterator[StoredFile]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __add__(self, more: Iterable[StoredFile]) -> Listing:
        return Listing([*self._files, *more])

    def under(self, folder: str) -> list[StoredFile]:
        """Files in ``folder`` and its subfolders, without temporary files that a writer has not renamed yet."""
        first, end = bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, f"{folder}0")  # "0" follows "/"
        return [file for file in self._files[first:end] if not file.unpublished]

    def get(self, path: str) -> StoredFile | None:
        place = bisect_left(self._paths, path)
        return self._files[place] if place < len(self._paths) and self._paths[place] == path else None
