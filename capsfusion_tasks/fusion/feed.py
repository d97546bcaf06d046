"""What a rank works on: chunks claimed from a counter that all ranks share, read and tokenized ahead of the engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from torch.distributed.distributed_c10d import Store

from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import Chunk
from capsfusion_tasks.fusion.engine import Completion, Request
from capsfusion_tasks.fusion.launcher import FuseJob
from capsfusion_tasks.fusion.pairs_input import PairsInput
from capsfusion_tasks.fusion.prompt import prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.storage import Storage


@dataclass(frozen=True)
class Prepared:
    """A claimed chunk: its prompts, and the rows that are set aside without asking the model."""

    chunk: Chunk
    requests: list[Request]
    set_aside: list[Completion]


class Feed:
    """The chunks that this rank claims, those that are done left out; a thread prepares one ahead.

    Ranks claim one chunk after the other until none is left: a rank with short captions takes more, and nobody waits.
    The counter lies in torchrun's own store, so it spans nodes, and needs no second server.
    """

    def __init__(
        self, job: FuseJob, storage: Storage, pairs: PairsInput, store: Store, tokenizer: LlamaTokenizer
    ) -> None:
        self._job, self._storage, self._pairs, self._store, self._tokenizer = job, storage, pairs, store, tokenizer
        self._ready: queue.Queue[Prepared | Exception | None] = queue.Queue()
        # One chunk ahead: more would be taken away from ranks that have nothing to do.
        self._wanted = threading.Semaphore(1)
        self._ended = False
        threading.Thread(target=self._run, name="feed", daemon=True).start()

    def next(self, *, wait: bool) -> Prepared | None:
        """The next chunk if it is ready. With ``wait``, None means that there are no more."""
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
                chunk = next(prepared, None)
                self._ready.put(chunk)
                if chunk is None:
                    return
        except Exception as error:  # raised again where the chunks are taken
            self._ready.put(error)

    def _prepare(self) -> Iterator[Prepared]:
        job = self._job
        while True:
            start = (self._store.add("claimed", 1) - 1) * job.chunk_rows
            pairs = self._pairs.read(start, job.chunk_rows)
            if not pairs.num_rows:
                return
            chunk = chunk_files.make_chunk(pairs, start, job.chunks, job.fusion_id, job.chunk_rows)
            if chunk_files.is_done(self._storage, chunk):
                self._store.add("found", chunk.rows)
                continue
            requests, set_aside = [], []
            for row, pair in enumerate(pairs.to_pylist(), start=start):
                raw, synthetic = pair["laion_2b"], pair["laion_coco"]
                if raw and raw.strip() and synthetic and synthetic.strip():
                    requests.append(Request(row, prompt_tokens(self._tokenizer, raw, synthetic)))
                else:
                    missing = "laion_coco" if raw and raw.strip() else "laion_2b"
                    set_aside.append(Completion(row, [], f"error: {missing} is empty", 0))
            yield Prepared(chunk, requests, set_aside)
