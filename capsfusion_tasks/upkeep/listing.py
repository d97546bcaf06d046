"""The files of the staging area that a check examines: all files, or those of some intervals, shards and units."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

from capsfusion_tasks.schemas import PAIRED
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage, StoredFile

READERS = 16  # number of files or folders to read in parallel, because on S3 each takes one to three round trips
_PAGE = 1000  # S3 lists a folder in pages of this many files, one page after the other


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
        # In ASCII, "0" follows "/", so all paths in the folder are sorted before ``{folder}0``.
        first, end = bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, f"{folder}0")
        return [file for file in self._files[first:end] if not file.unpublished]

    def get(self, path: str) -> StoredFile | None:
        place = bisect_left(self._paths, path)
        return self._files[place] if place < len(self._paths) and self._paths[place] == path else None


def all_but_units(storage: Storage, bucket_files: int) -> list[StoredFile]:
    """All files of the staging area, except files of units. ``bucket_files``: about how many files each bucket has."""
    files, folders = storage.level("")
    if bucket_files * READERS > _PAGE:  # list the buckets in parallel, because one listing reads page after page
        for parent in ("buckets", *(f"buckets/{side}" for side in PAIRED)):
            here, below = storage.level(parent)
            files += here
            folders = [*(folder for folder in folders if folder != parent), *below]
    wanted = (folder for folder in folders if folder != "units")
    return [*files, *chain.from_iterable(read_ahead(storage.tree, wanted, READERS))]


def existing(storage: Storage, paths: Iterable[str], bucket_files: int) -> list[StoredFile]:
    """The bucket files among ``paths`` that exist. On S3, lists whole buckets where this takes fewer requests."""
    buckets: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        buckets[path.rpartition("/")[0]].append(path)
    pages = bucket_files // _PAGE + 1
    listed = {bucket: set(wanted) for bucket, wanted in buckets.items() if len(wanted) > pages and not storage.is_local}
    asked = chain.from_iterable(wanted for bucket, wanted in buckets.items() if bucket not in listed)
    found = chain.from_iterable(read_ahead(storage.tree, listed, READERS))
    return [
        *storage.stat(asked, READERS),
        *(file for file in found if file.path in listed[file.path.rpartition("/")[0]]),
    ]
