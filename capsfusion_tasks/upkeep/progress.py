"""Says what a check is doing and how far it is, for the message that it is still working."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Doing = Callable[[str], None]  # is called with what the check is doing now

_Item = TypeVar("_Item")


def unheard(_: str) -> None:
    """Says nothing: for callers that show no progress."""


def counted(items: Iterable[_Item], doing: Doing, what: str, total: int) -> Iterator[_Item]:
    """Yield ``items``, of which there are ``total``. After each, calls ``doing`` with a count: ``what``: 3 of 20."""
    doing(f"{what}: 0 of {total:,}")
    for number, item in enumerate(items, start=1):
        yield item
        doing(f"{what}: {number:,} of {total:,}")
