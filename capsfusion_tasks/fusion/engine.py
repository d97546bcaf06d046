"""What an engine is: prompts in, finished captions out. And what to do when one cannot digest a batch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A row to fuse: its number and its prompt's token ids (BOS first)."""

    row: int
    prompt: list[int]


@dataclass(frozen=True)
class Completion:
    """A row's generated token ids, EOS counted in ``caption_tokens`` but not among ``token_ids``.

    ``finish_reason`` is "stop" (EOS came), "length" (max_new_tokens came first) or "error: …" (no caption).
    """

    row: int
    token_ids: list[int]
    finish_reason: str
    caption_tokens: int


class Engine(Protocol):
    """Generates captions. ``generate`` may give them in any order, each row once."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]: ...


def complete_all(engine: Engine, requests: Sequence[Request]) -> Iterator[Completion]:
    """Completions of all ``requests``, whatever a few of them do to the engine.

    A batch that raises is halved and tried again; a single row that raises is set aside with its error. Out of memory
    is halved in the same way: what was too much at once may fit in two parts. A broken device ends the run instead,
    since every row after it would fail too.
    """
    pending = [list(requests)]
    while pending:
        batch = pending.pop()
        try:
            yield from list(engine.generate(batch))
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(batch) == 1:
                log.warning("row %d is set aside: %s: %s", batch[0].row, type(error).__name__, error)
                yield Completion(batch[0].row, [], f"error: {type(error).__name__}: {error}", 0)
                continue
            log.warning("%d rows failed together (%s: %s): halving", len(batch), type(error).__name__, error)
            middle = len(batch) // 2
            pending += [batch[middle:], batch[:middle]]
