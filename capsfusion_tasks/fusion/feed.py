"""What a rank works on: rows claimed from a counter that all ranks share, read and tokenized ahead of the engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion.chunks import input_digest
from capsfusion_tasks.fusion.engine import Completion, Request
from capsfusion_tasks.fusion.finished import FinishedRows
from capsfusion_tasks.fusion.launcher import FuseJob
from capsfusion_tasks.fusion.pairs_input import PairsInput
from capsfusion_tasks.fusion.prompt import has_text, prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.storage import Storage

_AHEAD = 2  # claims that are prepared: more would be taken away from ranks that have nothing to do


@dataclass
class Prepared:
    """A claim's unfinished rows: their digests, their prompts, and those that are not for the model."""

    inputs: dict[int, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    set_aside: list[Completion] = field(default_factory=list)


class Feed:
    """The rows that this rank claims, without those that are finished; a thread prepares some ahead.

    Ranks claim one range of rows after the other until none is left: a rank with short captions takes more, and nobody
    waits. The counter lies in torchrun's own store, so it spans nodes, and needs no second server.
    """

    def __init__(
        self, job: FuseJob, storage: Storage, pairs: PairsInput, store: Store, tokenizer: LlamaTokenizer
    ) -> None:
        self._job, self._storage, self._pairs, self._store, self._tokenizer = job, storage, pairs, store, tokenizer
        self._ready: queue.Queue[Prepared | Exception | None] = queue.Queue()
        self._wanted = threading.Semaphore(_AHEAD)
        self._ended = False
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def next(self, *, wait: bool) -> Prepared | None:
        """The next rows if they are ready. With ``wait``, None means that there are no more."""
        if self._ended:
            return None
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
        except Exception as error:  # raised again where the rows are taken
            self._ready.put(error)

    def _prepare(self) -> Iterator[Prepared]:
        # Once: what ranks of this try finish meanwhile, nobody else claims.
        finished = FinishedRows(self._storage, self._job.chunks, self._job.fusion_id, ["row", "input"])
        while True:
            start = (self._store.add("claimed", 1) - 1) * self._job.claim_rows
            pairs = self._pairs.read(start, self._job.claim_rows)
            if not pairs.num_rows:
                return
            done = {tuple(row.values()) for row in finished.between(start, start + pairs.num_rows).to_pylist()}
            prepared = Prepared()
            for row, pair in enumerate(pairs.to_pylist(), start=start):
                digest = input_digest(pair["laion_2b"], pair["laion_coco"])
                if (row, digest) not in done:
                    self._add(prepared, row, digest, pair["laion_2b"], pair["laion_coco"])
            if found := pairs.num_rows - len(prepared.inputs):
                self._store.add("found", found)
            if prepared.inputs:
                yield prepared

    def _add(self, prepared: Prepared, row: int, digest: bytes, raw: str | None, synthetic: str | None) -> None:
        prepared.inputs[row] = digest
        if raw and synthetic and has_text(raw) and has_text(synthetic):
            prepared.requests.append(Request(row, prompt_tokens(self._tokenizer, raw, synthetic)))
        else:
            missing = "laion_coco" if has_text(raw) else "laion_2b"
            prepared.set_aside.append(Completion(row, [], f"error: {missing} is empty", 0))
