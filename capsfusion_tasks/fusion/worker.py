"""The process that torchrun starts once a GPU: ``python -m torch.distributed.run … -m capsfusion_tasks.fusion.worker``.

Ranks claim chunks from one counter until none is left: a rank with short captions takes more, and nobody waits.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time

import torch
from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.chunks import CAPTION_COLUMNS, Chunk
from capsfusion_tasks.fusion.engine import Completion, Engine, Request, complete_all
from capsfusion_tasks.fusion.identity import model_folder
from capsfusion_tasks.fusion.launcher import INPUT_ERROR_MARK, FuseJob
from capsfusion_tasks.fusion.node import die_with_parent, take_device
from capsfusion_tasks.fusion.prompt import prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.storage import Storage

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PROGRESS_SECONDS = 5.0


def fuse_chunks(job: FuseJob, store: Store, rank: int, local_rank: int, local_world_size: int) -> None:
    """Fuse what this rank can claim of the job's chunks that are not done yet."""
    storage = Storage(job.staging)
    pairs = storage.read_table(job.pairs, columns=CAPTION_COLUMNS)
    chunks = chunk_files.cut_chunks(pairs, job.chunks, job.fusion_id, job.chunk_rows)
    claims = Claims(store, chunks, [not chunk_files.is_done(storage, chunk) for chunk in chunks])
    if rank == 0:
        log.info("%d of %d chunks to fuse, %d rows in all", claims.todo, len(chunks), pairs.num_rows)
        # Chunks of another size, from a try with other settings: their rows would be there twice.
        for stray in set(storage.files(job.chunks)) - {chunk.path for chunk in chunks}:
            storage.delete(stray)
    if not claims.todo:
        return

    device, lock = take_device(local_rank, local_world_size)
    folder = model_folder(job.model)
    tokenizer = LlamaTokenizer(folder / "tokenizer.model")
    engine = load_engine(job, tokenizer, device)
    while (chunk := claims.claim()) is not None:
        started = time.monotonic()
        rows = fuse_rows(engine, tokenizer, pairs.slice(chunk.start, chunk.rows).to_pylist(), chunk.start)
        chunk_files.publish(storage, chunk, rows, device_seconds=time.monotonic() - started)
        claims.done(chunk)
        if rank == 0:
            claims.report()
    if lock is not None:
        lock.close()


class Claims:
    """The chunks that are left, and one counter in torchrun's store from which every rank takes the next."""

    def __init__(self, store: Store, chunks: list[Chunk], wanted: list[bool]) -> None:
        self._store = store
        # Rank 0 decides what is left: another rank may look after the first chunk of this try is finished, and the
        # ranks' lists must be the same for one number to mean the same chunk.
        if int(os.environ["RANK"]) == 0:
            store.set("wanted", json.dumps([i for i, want in enumerate(wanted) if want]))
        self._left = [chunks[i] for i in json.loads(store.get("wanted"))]
        self.todo = len(self._left)
        self._rows = sum(chunk.rows for chunk in self._left)
        self._started = self._reported = time.monotonic()

    def claim(self) -> Chunk | None:
        number = self._store.add("claimed", 1) - 1
        return self._left[number] if number < self.todo else None

    def done(self, chunk: Chunk) -> None:
        self._store.add("rows", chunk.rows)

    def report(self) -> None:
        """A line of progress over all ranks, at most one in PROGRESS_SECONDS."""
        now = time.monotonic()
        rows = self._store.add("rows", 0)
        if now - self._reported < PROGRESS_SECONDS and rows < self._rows:
            return
        self._reported = now
        rate = rows / (now - self._started)
        log.info("%d/%d rows, %.1f rows/s, %.0f s to go", rows, self._rows, rate, (self._rows - rows) / rate)


def load_engine(job: FuseJob, tokenizer: LlamaTokenizer, device: torch.device) -> Engine:
    """The engine that the job names, its weights on ``device``."""
    from capsfusion_tasks.fusion.transformers_engine import TransformersEngine

    dtype = DTYPES.get(job.dtype, torch.bfloat16 if device.type == "cuda" else torch.float32)
    return TransformersEngine(
        model_folder(job.model),
        device=device,
        dtype=dtype,
        num_beams=job.num_beams,
        max_new_tokens=job.max_new_tokens,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        batch_size=job.batch_size,
    )


def fuse_rows(
    engine: Engine, tokenizer: LlamaTokenizer, pairs: list[dict[str, str | None]], first_row: int
) -> list[dict[str, object]]:
    """Rows of schema FUSED for ``pairs``. A pair with a missing caption is set aside without the model."""
    requests, rows = [], []
    for row, pair in enumerate(pairs, start=first_row):
        raw, synthetic = pair["laion_2b"], pair["laion_coco"]
        if raw and raw.strip() and synthetic and synthetic.strip():
            requests.append(Request(row, prompt_tokens(tokenizer, raw, synthetic)))
        else:
            missing = "laion_coco" if raw and raw.strip() else "laion_2b"
            rows.append(_fused(Completion(row, [], f"error: {missing} is empty", 0), "", 0))
    prompt_length = {request.row: len(request.prompt) for request in requests}
    for completion in complete_all(engine, requests) if requests else ():
        text = tokenizer.decode(completion.token_ids).strip()
        rows.append(_fused(completion, text, prompt_length[completion.row]))
    return rows


def _fused(completion: Completion, text: str, prompt_length: int) -> dict[str, object]:
    return {
        "row": completion.row,
        "capsfusion": text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": prompt_length,
        "caption_tokens": completion.caption_tokens,
    }


@record  # so that torchrun's report of a failure has the rank's own traceback
def main() -> int:
    die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=FuseJob.model_validate_json, help="the job as JSON; see launcher.FuseJob")
    job: FuseJob = parser.parse_args().job
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    logging.basicConfig(level=logging.INFO, format=f"rank {rank}: %(message)s", stream=sys.stdout)
    # torchrun's own store: no second server, and it outlives any rank.
    store, _, _ = next(iter(rendezvous("env://")))
    try:
        fuse_chunks(job, store, rank, local_rank, int(os.environ["LOCAL_WORLD_SIZE"]))
    except InputError as error:
        print(f"{INPUT_ERROR_MARK}{error}", flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
