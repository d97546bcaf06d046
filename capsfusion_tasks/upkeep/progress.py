"""Reports the progress of a check, for the messages that say that the check is still working."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Doing = Callable[[str], None]  # a function that gets messages such as "checking shards: 3 of 20"

_Item = TypeVar("_Item")


def unheard(_: str) -> None:
    """Ignore the message: for callers that show no progress."""


def counted(items: Iterable[_Item], doing: Doing, what: str, total: int) -> Iterator[_Item]:
    """Yield the ``total`` items. After each, call ``doing`` with ``what`` and a count: "checking shards: 3 of 20"."""
    doing(f"{what}: 0 of {total:,}")
    for number, item in enumerate(items, start=1):
        yield item
        doing(f"{what}: {number:,} of {total:,}")
