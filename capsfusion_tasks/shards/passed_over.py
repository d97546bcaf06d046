"""Counts a source's files that are not shards, to explain why a source has no shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from capsfusion_tasks.errors import printable
from capsfusion_tasks.locations import is_hidden

_HIDDEN = "or folders begin with . or _"
_NO_MATCH = "do not match the side's include and exclude patterns"


class PassedOver:
    """Counts the files that ``wanted`` rejects, and keeps an example for each reason. ``str()`` lists the reasons."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._counts, self._examples = Counter[str](), dict[str, str]()

    def wanted(self, path: str) -> bool:
        if self._wanted(path):
            return True
        reason = _HIDDEN if is_hidden(path) else _NO_MATCH
        self._counts[reason] += 1
        self._examples.setdefault(reason, printable(path))
        return False

    @property
    def files(self) -> int:
        return self._counts.total()

    def __str__(self) -> str:
        parts = [
            f"{count} files {reason}, such as {self._examples[reason]}"
            for reason, count in sorted(self._counts.items())
        ]
        return "; ".join(parts) or "there are no files"
