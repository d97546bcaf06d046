"""Feeds a rank (a process that torchrun starts) with rows.

Claims rows with a counter that all ranks share, and tokenizes their prompts in advance.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion.chunks import input_digest
from capsfusion_tasks.fusion.engine import Completion, Request
from capsfusion_tasks.fusion.finished import FinishedRows
from capsfusion_tasks.fusion.identity import template_of
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.pairs_input import CAPTION_COLUMNS, PairsInput
from capsfusion_tasks.fusion.prompt import Prompt, is_empty_caption
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.staging.storage import Storage

_AHEAD = 2  # number of claims that a rank prepares in advance; more would leave other ranks without rows at the end


@dataclass
class Prepared:
    """The unfinished rows of a claim (a range of rows that one rank has taken).

    ``inputs`` maps the number of each row to the digest of its captions. ``requests`` are the rows that the engine
    gets. The other rows cannot be fused, because a caption is empty: ``set_aside`` has a completion with this reason
    for each of them.
    """

    inputs: dict[int, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    set_aside: list[Completion] = field(default_factory=list)


class Feed:
    """The unfinished rows that this rank claims. A thread prepares the next rows in advance.

    Ranks claim one range of rows after the other until no rows are left. A rank with short captions therefore claims
    more rows instead of waiting for other ranks. The counter of claimed ranges is in torchrun's store, which works
    across nodes and needs no other server.
    """

    def __init__(self, job: FuseJob, storage: Storage, pairs: PairsInput, store: Store, tokenizer: Tokenizer) -> None:
        self._job, self._storage, self._pairs, self._store = job, storage, pairs, store
        self._prompt = Prompt(tokenizer, template_of(job.decoding))
        self._ready: queue.Queue[Prepared | Exception | None] = queue.Queue()
        self._wanted = threading.Semaphore(_AHEAD)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    @cached_property
    def _finished(self) -> FinishedRows:
        """The finished rows of earlier tries. Read only once: rows that this try finishes are never claimed again."""
        return FinishedRows(self._storage, self._job.chunks, self._job.fusion_id, ["row", "input"])

    def has_unfinished(self) -> bool:
        """Whether there are unfinished rows that no rank has claimed yet.

        Call this before ``next``, because ``next`` claims rows. This method claims no rows. It waits for pairs that are
        not written yet.
        """
        start = self._claimed()
        while (pairs := self._pairs.read(start, self._job.claim_rows)).num_rows:
            if self._unfinished(start, pairs):
                return True
            start += self._job.claim_rows
        return False

    def all_claimed(self) -> bool:
        """Whether ranks have claimed all rows. False while pairs are still being written."""
        total = self._pairs.total()
        return total is not None and self._claimed() >= total

    def _claimed(self) -> int:
        """The number of rows that all ranks together have claimed."""
        return int(self._store.add("claimed", 0)) * self._job.claim_rows

    def next(self, *, wait: bool) -> Prepared | None:
        """The next rows, or None if no rows are ready. The first call starts the thread that claims rows.

        With ``wait``, waits until rows are ready, and returns None only if no rows are left.
        """
        if self._ended:
            return None
        if self._thread.ident is None:  # not started
            self._thread.start()
        try:
            prepared = self._ready.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(prepared, Exception):
            raise prepared
        self._ended = prepared is None
        self._wanted.release()
        return prepared

    def _run(self) -> None:
        try:
            prepared = self._prepare()
            while self._wanted.acquire():
                rows = next(prepared, None)
                self._ready.put(rows)
                if rows is None:
                    return
        except Exception as error:  # ``next`` raises this error again
            self._ready.put(error)

    def _prepare(self) -> Iterator[Prepared]:
        while True:
            start = (self._store.add("claimed", 1) - 1) * self._job.claim_rows
            pairs = self._pairs.read(start, self._job.claim_rows)
            if not pairs.num_rows:
                return
            prepared = Prepared()
            for row, digest, raw, synthetic in self._unfinished(start, pairs):
                self._add(prepared, row, digest, raw, synthetic)
            if found := pairs.num_rows - len(prepared.inputs):
                self._store.add("found", found)
            if prepared.inputs:
                yield prepared

    def _unfinished(self, start: int, pairs: pa.Table) -> list[tuple[int, bytes, str | None, str | None]]:
        """The unfinished rows of ``pairs`` as tuples: row number, digest of the captions, raw and synthetic caption.

        ``start`` is the number of the first row of ``pairs``.
        """
        done = {tuple(row.values()) for row in self._finished.between(start, start + pairs.num_rows).to_pylist()}
        captions = zip(*(pairs[name].to_pylist() for name in CAPTION_COLUMNS), strict=True)
        rows = [
            (row, input_digest(raw, synthetic), raw, synthetic)
            for row, (raw, synthetic) in enumerate(captions, start=start)
        ]
        return [row for row in rows if row[:2] not in done]

    def _add(self, prepared: Prepared, row: int, digest: bytes, raw: str | None, synthetic: str | None) -> None:
        prepared.inputs[row] = digest
        empty = [name for name, text in zip(CAPTION_COLUMNS, (raw, synthetic), strict=True) if is_empty_caption(text)]
        if empty:
            prepared.set_aside.append(Completion(row, [], f"error: {empty[0]} is empty", 0))
        else:
            prepared.requests.append(Request(row, self._prompt.tokens(raw or "", synthetic or "")))
