"""Retries a step (a function) after temporary failures, such as broken connections, timeouts and busy servers."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from capsfusion_tasks.errors import NotReadyError

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 6  # maximum number of consecutive failures without progress
_FIRST_WAIT = 1.0  # seconds to wait after the first failure; each further failure doubles the wait, up to 60 s
# Longest wait, in seconds, that a server may request. If a server requests a longer wait, the task fails and is retried
# later.
_LONGEST_WAIT = 300.0


class MayPass(Exception):
    """A temporary failure. ``retry_after``: the wait in seconds that the server requests."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def retrying(
    step: Callable[[], T],
    where: str,
    *,
    on: tuple[type[Exception], ...] = (),
    progress: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
    tries: int = TRIES,
) -> T:
    """The result of ``step``. Retries ``step`` with growing waits if it raises MayPass or one of ``on``.

    ``where``: the file or server, as errors and logs name it. ``progress``: returns a number that grows with the work
    that is done, such as the bytes that were read. If this number has grown since the last failure, the count of
    failures starts again. Raises NotReadyError after ``tries`` consecutive failures without progress, or when ``stop``
    is set.
    """
    passing: tuple[type[Exception], ...] = (MayPass, *on)
    stop = stop or threading.Event()
    failures, reached = 0, progress()
    while True:
        try:
            return step()
        except passing as error:
            if progress() > reached:
                failures, reached = 0, progress()
            failures += 1
            reason = str(error) or type(error).__name__
            if failures == tries:
                raise NotReadyError(f"{where}: {reason} (try {failures} of {tries}): try again later") from error
            seconds = min(_FIRST_WAIT * 2 ** (failures - 1), 60.0) * random.uniform(0.5, 1)
            asked = getattr(error, "retry_after", None)
            if asked is not None:
                if asked > _LONGEST_WAIT:
                    raise NotReadyError(
                        f"{where}: {reason}; the server asks to wait {asked:.0f} s: try again after that"
                    ) from error
                seconds = max(seconds, asked)
            log.warning("%s: %s; trying again in %.0f s (try %d of %d)", where, reason, seconds, failures, tries)
            if _wait(stop, seconds):
                raise NotReadyError(f"{where}: stopped after {reason}") from error


def _wait(stop: threading.Event, seconds: float) -> bool:
    return stop.wait(seconds)
