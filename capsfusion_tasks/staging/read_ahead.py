"""Reads files in parallel, because each read from S3 takes two or three round trips. Returns the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

READERS = 8

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


def read_ahead(read: Callable[[_Item], _Read], items: Iterable[_Item], readers: int = READERS) -> Iterator[_Read]:
    """The results of ``read`` for ``items``, in order. Reads at most ``readers`` items ahead of the current item."""
    with ThreadPoolExecutor(readers) as pool:
        pending: deque[Future[_Read]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(read, item))
                if len(pending) > readers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
