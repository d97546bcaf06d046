"""Collects the rows that a rank has fused, and writes them to files, called chunks, every few seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import Any

from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion.chunk_writer import ChunkWriter
from capsfusion_tasks.fusion.engine import Beam, Completion, Occupancy
from capsfusion_tasks.fusion.feed import Prepared
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.staging.storage import Storage

COUNTED = ("rows", "caption_tokens", "busy", "slots")  # counters in torchrun's store, for the progress line
_COUNT_SECONDS = 1.0


class Results:
    """Finished rows of one rank, in any order. A thread counts and writes the rows, so that the device never waits.

    This is a context manager. At the end of its ``with`` block, all finished rows are written.
    """

    def __init__(
        self, job: FuseJob, storage: Storage, store: Store, tokenizer: Tokenizer, occupancy: Occupancy
    ) -> None:
        self._job, self._store, self._tokenizer, self._occupancy = job, store, tokenizer, occupancy
        self._expected: dict[int, tuple[bytes, int]] = {}  # row → digest of its two captions, number of prompt tokens
        self._finished: deque[dict[str, Any]] = deque()
        self._chunks = ChunkWriter(job, storage, store, occupancy)
        self._counted = Occupancy()
        self._wake, self._ended = threading.Event(), False
        self._failure: Exception | None = None
        self._publisher = threading.Thread(target=self._publish, name="publish", daemon=True)

    def __enter__(self) -> Results:
        self._publisher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended = True
        self._wake.set()
        self._publisher.join()
        if error is not None:
            return
        self._raise_failure()
        if self._expected:
            raise RuntimeError(
                f"the engine returned no caption for {len(self._expected)} rows; the first is {min(self._expected)}"
            )

    def expect(self, prepared: Prepared) -> None:
        """Register rows before the engine gets them. Rows that cannot be fused (``set_aside``) count as finished."""
        prompts = {request.row: len(request.prompt) for request in prepared.requests}
        self._expected |= {row: (digest, prompts.get(row, 0)) for row, digest in prepared.inputs.items()}
        for completion in prepared.set_aside:
            self.add(completion)

    def add(self, completion: Completion) -> None:
        """Add the caption of a row. If an earlier write failed, raises the error of that write."""
        self._raise_failure()
        digest, tokens = self._expected.pop(completion.row)
        self._finished.append(
            {
                "row": completion.row,
                "input": digest,
                "prompt_tokens": tokens,
                # The schema drops this column if the job keeps only the best caption (``keep_beams`` is off).
                "other_beams": [self._caption(beam) for beam in completion.others],
                **self._caption(completion),
            }
        )
        if len(self._finished) >= self._job.chunk_rows:
            self._wake.set()

    def _caption(self, made: Completion | Beam) -> dict[str, Any]:
        return {
            "capsfusion": self._tokenizer.decode(made.token_ids).strip(),
            "finish_reason": made.finish_reason,
            "caption_tokens": made.caption_tokens,
        }

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _publish(self) -> None:
        try:
            due = time.monotonic() + self._job.write_seconds
            ended = False
            while not ended:
                self._wake.wait(max(0.0, min(_COUNT_SECONDS, due - time.monotonic())))
                self._wake.clear()
                ended = self._ended  # read this flag before taking rows, so that the last round takes all rows
                rows = [self._finished.popleft() for _ in range(len(self._finished))]
                self._count(rows)
                self._chunks.add(rows)
                if ended or time.monotonic() >= due:
                    self._chunks.write()
                    due = time.monotonic() + self._job.write_seconds
        except Exception as error:  # ``add`` and the end of the ``with`` block raise this error
            self._failure = error

    def _count(self, rows: list[dict[str, Any]]) -> None:
        busy, slots = self._occupancy.busy, self._occupancy.slots
        tokens = sum(row["caption_tokens"] for row in rows)
        new = (len(rows), tokens, busy - self._counted.busy, slots - self._counted.slots)
        for name, amount in zip(COUNTED, new, strict=True):
            self._store.add(name, amount)
        self._counted = Occupancy(busy, slots)
