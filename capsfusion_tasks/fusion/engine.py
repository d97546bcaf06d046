"""The interface of engines, which turn prompts into captions.

``complete_all`` retries rows after an error, and sets aside rows that always fail.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from capsfusion_tasks.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A row to fuse: its number, the token ids of its prompt, and optionally its maximum number of new tokens.

    The prompt begins with BOS, if the tokenizer has a BOS token.
    """

    row: int
    prompt: list[int]
    max_new_tokens: int | None = None

    def limit(self, of_engine: int) -> int:
        """The maximum number of new tokens: the smaller of the row's limit and the engine's limit ``of_engine``."""
        return of_engine if self.max_new_tokens is None else min(self.max_new_tokens, of_engine)


@dataclass(frozen=True)
class Beam:
    """A finished caption of a row's beam search. ``Completion.others`` has the captions other than the best one.

    The fields have the same meaning as in ``Completion``: ``token_ids`` do not contain EOS.
    """

    token_ids: list[int]
    finish_reason: str
    caption_tokens: int

    @classmethod
    def of(cls, token_ids: list[int], eos_ids: Collection[int]) -> Beam:
        """Make a beam from generated tokens. The last token may be EOS."""
        if token_ids[-1] in eos_ids:
            return cls(token_ids[:-1], "stop", len(token_ids))
        return cls(token_ids, "length", len(token_ids))


@dataclass(frozen=True)
class Completion:
    """A row's generated token ids. ``caption_tokens`` counts EOS, but ``token_ids`` do not contain it.

    ``finish_reason`` is "stop" (the model generated EOS), "length" (max_new_tokens tokens without EOS) or "error: …"
    (no caption). ``score`` is the mean log-probability of the tokens, if the engine computes it. ``others`` are the
    row's other captions, ordered from best to worst, if the engine keeps them.
    """

    row: int
    token_ids: list[int]
    finish_reason: str
    caption_tokens: int
    score: float | None = None
    others: tuple[Beam, ...] = ()


@dataclass
class Occupancy:
    """How full the engine's batches were.

    ``busy`` counts the rows that still needed a token. ``slots`` counts all slots of the batch (places for one row
    each), also those without such a row. Both counts are sums over all steps.
    """

    busy: int = 0
    slots: int = 0

    def count(self, busy: int, slots: int) -> None:
        self.busy += busy
        self.slots += slots


class Requests(Protocol):
    """A source of rows to fuse. More rows may become ready later."""

    def take(self, most: int, *, wait: bool) -> list[Request]:
        """Up to ``most`` requests that are ready now.

        With ``wait``, waits until a request is ready, and returns an empty list only if no requests are left.
        """
        ...


class StaticRequests:
    """Requests that are all known from the start."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._left = deque(requests)

    def take(self, most: int, *, wait: bool = True) -> list[Request]:  # noqa: ARG002
        return [self._left.popleft() for _ in range(min(most, len(self._left)))]


class Engine(Protocol):
    """Generates a caption for each request, in any order. Takes more requests as soon as it can process them."""

    occupancy: Occupancy

    def generate(self, requests: Requests) -> Iterator[Completion]: ...

    def shrink(self) -> bool:
        """Take fewer rows at once from now on. Returns False if the engine cannot take fewer rows."""
        ...


HOPELESS = 16  # if this many consecutive rows fail, the rows are not the cause, and the run ends with an error
NOT_FINITE = "error: the model's scores are not finite numbers (NaN)"


def complete_all(engine: Engine, requests: Requests) -> Iterator[Completion]:
    """Completions of all ``requests``, even if the engine fails on some of them.

    If the engine raises an error, the rows in flight are fused again. After an out-of-memory error, fewer rows are
    fused at once. After other errors, the group of rows is halved until the failing row is alone. This row is set
    aside: it gets the error instead of a caption. A row whose scores are not finite is set aside, too.

    The run ends with an error in these cases:

    - The device is broken. Every later row would fail as well.
    - HOPELESS consecutive rows are set aside. Raises the error of the last row, or InputError if the scores of that
      row are not finite.
    - ``requests`` raises an error.
    - The engine raises InputError, or fails while no rows are in flight.
    """
    set_aside: list[Completion] = []  # rows set aside since the last fused row; yielded when another row is fused
    in_flight: dict[int, Request] = {}
    parts: list[Requests] = [requests]  # a stack of groups of rows: the last group is fused next
    while parts:
        part = parts.pop()
        try:
            for completion in engine.generate(_TrackedRequests(part, in_flight)):
                del in_flight[completion.row]
                if completion.finish_reason == NOT_FINITE:
                    _set_aside(completion, set_aside)
                    continue
                yield from set_aside
                set_aside.clear()
                yield completion
        except _SourceError as error:
            raise error.cause from None
        except (torch.AcceleratorError, InputError):
            raise
        except Exception as error:
            rows = list(in_flight.values())
            in_flight.clear()
            parts.append(part)
            _release_tensors(error)
            if isinstance(error, torch.OutOfMemoryError) and _shrink(engine):
                parts.append(StaticRequests(rows))
            elif len(rows) == 1:
                _set_aside(Completion(rows[0].row, [], f"error: {type(error).__name__}: {error}", 0), set_aside, error)
            elif rows:
                log.warning(
                    "%d rows failed together (%s: %s): trying each half of them", len(rows), type(error).__name__, error
                )
                parts += [StaticRequests(rows[len(rows) // 2 :]), StaticRequests(rows[: len(rows) // 2])]
            else:
                raise
        if in_flight:
            raise RuntimeError(f"the engine ended without the captions of {len(in_flight)} rows, {[*in_flight][:5]}, …")
    yield from set_aside


def _set_aside(completion: Completion, set_aside: list[Completion], error: Exception | None = None) -> None:
    """Add a row without a caption to ``set_aside``. If the list then has HOPELESS rows (a limit), raise an error.

    Raises ``error``, or if ``error`` is None, an InputError about scores that are not finite.
    """
    number, reason = completion.row + 1, completion.finish_reason.removeprefix("error: ")
    log.warning("row %d of the input gets no caption: %s", number, reason)
    set_aside.append(completion)
    if len(set_aside) < HOPELESS:
        return
    if error is not None:
        raise error
    raise InputError(
        f"the scores of {HOPELESS} consecutive rows, up to row {number}, are not finite numbers (NaN): the"
        " model's weights are damaged, or too large for this dtype. Check the model, or try --dtype float32"
    )


def _release_tensors(error: BaseException) -> None:
    """Release the tensors that the traceback of ``error`` refers to, so that the next try can use their memory."""
    following: BaseException | None = error
    while following is not None:
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


class _SourceError(Exception):
    """Wraps an error that ``Requests.take`` raised, so that it is not handled like an error of the engine."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class _TrackedRequests:
    """Requests that are added to ``in_flight`` when the engine takes them."""

    def __init__(self, requests: Requests, in_flight: dict[int, Request]) -> None:
        self._requests, self._in_flight = requests, in_flight

    def take(self, most: int, *, wait: bool) -> list[Request]:
        try:
            taken = self._requests.take(most, wait=wait)
        except Exception as error:
            raise _SourceError(error) from error
        self._in_flight |= {request.row: request for request in taken}
        return taken


def _shrink(engine: Engine) -> bool:
    if not engine.shrink():
        return False
    torch.cuda.empty_cache()
    log.warning("out of memory: continuing with fewer rows at once")
    return True
