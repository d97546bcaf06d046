"""What comes out of the engine: captions collected by chunk, and each chunk published as soon as it is whole."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import Chunk, Figures
from capsfusion_tasks.fusion.engine import Completion, Occupancy
from capsfusion_tasks.fusion.feed import Prepared
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.storage import Storage

COUNTED = ("rows", "caption_tokens", "busy", "slots")  # what ranks add up in the store, for the line of progress


class Results:
    """Open chunks of one rank. Rows finish in any order; files are written in a thread, so the device never waits."""

    def __init__(self, storage: Storage, store: Store, tokenizer: LlamaTokenizer, occupancy: Occupancy) -> None:
        self._storage, self._store, self._tokenizer, self._occupancy = storage, store, tokenizer, occupancy
        # By row: its chunk, and that chunk's rows so far.
        self._open: dict[int, tuple[Chunk, list[dict[str, Any]]]] = {}
        self._prompt_tokens: dict[int, int] = {}
        self._publisher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._publishing: list[Future[None]] = []
        self._since = time.monotonic()
        self._counted = Occupancy()

    def open(self, prepared: Prepared) -> None:
        """Expect the rows of a chunk."""
        chunk, rows = prepared.chunk, list[dict[str, Any]]()
        self._open |= dict.fromkeys(range(chunk.start, chunk.stop), (chunk, rows))
        self._prompt_tokens |= {request.row: len(request.prompt) for request in prepared.requests}
        for completion in prepared.set_aside:
            self.add(completion)

    def add(self, completion: Completion) -> None:
        """Take a row's caption. Raises what went wrong when an earlier chunk was written."""
        chunk, rows = self._open.pop(completion.row)
        rows.append(
            {
                "row": completion.row,
                "capsfusion": self._tokenizer.decode(completion.token_ids).strip(),
                "finish_reason": completion.finish_reason,
                "prompt_tokens": self._prompt_tokens.pop(completion.row, 0),
                "caption_tokens": completion.caption_tokens,
            }
        )
        if len(rows) == chunk.rows:
            self._publishing.append(self._publisher.submit(self._publish, chunk, rows, self._figures(rows)))
        while self._publishing and self._publishing[0].done():
            self._publishing.pop(0).result()

    def close(self) -> None:
        """Wait until all is written."""
        self._publisher.shutdown()
        for publishing in self._publishing:
            publishing.result()
        if self._open:
            raise RuntimeError(
                f"{len(self._open)} rows never came back from the engine, the first is {min(self._open)}"
            )

    def _publish(self, chunk: Chunk, rows: list[dict[str, Any]], figures: Figures) -> None:
        chunk_files.publish(self._storage, chunk, rows, figures)
        for name in COUNTED:
            self._store.add(name, getattr(figures, name))

    def _figures(self, rows: list[dict[str, Any]]) -> Figures:
        """A chunk's, and what time went by since the last was whole: chunks overlap in the engine, their sum counts."""
        now, before, occupancy = time.monotonic(), self._counted, self._occupancy
        figures = Figures(
            rows=len(rows),
            prompt_tokens=sum(row["prompt_tokens"] for row in rows),
            caption_tokens=sum(row["caption_tokens"] for row in rows),
            device_seconds=now - self._since,
            busy=occupancy.busy - before.busy,
            slots=occupancy.slots - before.slots,
        )
        self._since, self._counted = now, Occupancy(occupancy.busy, occupancy.slots)
        return figures
