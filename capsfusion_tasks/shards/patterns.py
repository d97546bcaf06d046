"""Which files of a source are shards: glob patterns over relative paths, the same for every kind of source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase


def path_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a path matches a pattern of ``include`` and none of ``exclude``.

    A pattern without "/" is compared with the file's name, one with "/" with the whole relative path, where ``*`` also
    matches "/". A name that begins with "." or "_", or stands in such a folder, is no shard: it is still being written.
    """

    def matches(path: str, pattern: str) -> bool:
        return fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)

    def wanted(path: str) -> bool:
        if any(part.startswith((".", "_")) for part in path.split("/")):
            return False
        return any(matches(path, p) for p in include) and not any(matches(path, p) for p in exclude)

    return wanted
