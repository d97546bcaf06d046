"""The program of a rank, a process that torchrun starts for each GPU: ``python -m capsfusion_tasks.fusion.worker``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.distributed.distributed_c10d import Store
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.rendezvous import rendezvous

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.engine import Engine, Request, complete_all
from capsfusion_tasks.fusion.feed import Feed, Prepared
from capsfusion_tasks.fusion.identity import template_of
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.launcher import INPUT_ERROR_MARK, NOT_READY_MARK
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_files import model_folder
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer
from capsfusion_tasks.fusion.node import die_with_parent, require_gpu, take_device
from capsfusion_tasks.fusion.pairs_input import PairsInput
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, Prompt
from capsfusion_tasks.fusion.results import COUNTED, Results
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.fusion.torchrun import exit_now
from capsfusion_tasks.fusion.watchdog import Heartbeat
from capsfusion_tasks.staging.storage import Storage

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.float8_e4m3fn}
PROGRESS_SECONDS = 5.0
_POLL_SECONDS = 0.1


def fuse_rows(job: FuseJob, store: Store, rank: int, local_rank: int, local_world_size: int) -> None:
    """The work of a rank: claim rows of the job, and fuse the unfinished rows among them, until no rows are left."""
    heartbeat = Heartbeat(rank)
    heartbeat.beat("loading")
    storage = Storage(job.staging)
    pairs = PairsInput(storage, job.pairs, job.piece_rows)
    folder = model_folder(job.model)
    template = template_of(job.decoding)
    check_model(folder, engine=job.decoding.engine, max_new_tokens=job.decoding.max_new_tokens, template=template)
    tokenizer = load_tokenizer(folder)
    feed = Feed(job, storage, pairs, store, tokenizer)

    def keep_waiting() -> bool:
        heartbeat.beat("loading")
        return not feed.all_claimed()

    first, taken = None, None
    if feed.has_unfinished():
        require_gpu(job.decoding)
        # Lock the device before claiming rows. If another job uses this rank's GPU, other ranks fuse the rows in the
        # meantime.
        taken = take_device(local_rank, local_world_size, on_wait=keep_waiting)
        first = feed.next(wait=True) if taken else None
    else:
        # Each row is finished, or claimed by another rank (for example in a retry): start neither CUDA nor the engine.
        feed.next(wait=True)  # counts the finished rows, for ``Progress``
    if taken and first:
        device, _lock = taken  # keep the lock: other processes must not use the GPU while this process runs
        engine = load_engine(job, tokenizer, device)
        progress = Progress(store, pairs)
        # The engine may also run out of memory after loading, for example if another program takes GPU memory later.
        with memory_explained(job, device), Results(job, storage, store, tokenizer, engine.occupancy) as results:
            for completion in complete_all(engine, ClaimedRequests(first, feed, results)):
                results.add(completion)
                heartbeat.beat("working")
                if rank == 0:
                    progress.report()
    else:
        progress = Progress(store, pairs)
    heartbeat.beat("waiting")
    if rank == 0:
        progress.wait_for_all(on_progress=lambda: heartbeat.beat("waiting"))


class ClaimedRequests:
    """Requests for the rows that this rank claims. Registers each row with ``results`` before the engine gets it."""

    def __init__(self, first: Prepared, feed: Feed, results: Results) -> None:
        self._feed, self._results = feed, results
        self._ready: deque[Request] = deque()
        self._expect(first)

    def take(self, most: int, *, wait: bool) -> list[Request]:
        while len(self._ready) < most:
            prepared = self._feed.next(wait=wait and not self._ready)
            if prepared is None:
                break
            self._expect(prepared)
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def _expect(self, prepared: Prepared) -> None:
        self._results.expect(prepared)
        self._ready.extend(prepared.requests)


def load_engine(job: FuseJob, tokenizer: Tokenizer, device: torch.device) -> Engine:
    """The engine that the job's decoding settings name, with the model's weights on ``device``.

    Raises InputError if the device cannot compute in the dtype of these settings, or has too little memory.
    """
    with memory_explained(job, device):
        return _load_engine(job, tokenizer, device)


@contextmanager
def memory_explained(job: FuseJob, device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error of ``device`` in the ``with`` block into an InputError that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        name, total = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
        used = torch.cuda.memory_allocated(device)
        smaller = {"float32": "bfloat16", "bfloat16": "float8"}.get(job.decoding.dtype)
        hint = f"set CAPSFUSION_DTYPE={smaller} and plan again, " if smaller else ""
        raise InputError(
            f"the model in {job.decoding.dtype} and one row do not fit on {name}, where this rank could allocate only"
            f" {used / 1e9:.1f} of {total / 1e9:.1f} GB: {hint}use a larger GPU, or end other programs on this GPU"
            " (nvidia-smi)"
        ) from error


def _load_engine(job: FuseJob, tokenizer: Tokenizer, device: torch.device) -> Engine:
    folder, decoding, dtype = model_folder(job.model), job.decoding, DTYPES[job.decoding.dtype]
    on_cuda = device.type == "cuda"
    if dtype == torch.bfloat16 and on_cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise InputError(
            f"fusion {job.fusion_id} computes in bfloat16, which {torch.cuda.get_device_name(device)} does not support:"
            " use a GPU of the Ampere generation or newer, or set CAPSFUSION_DTYPE=float32 and plan again"
        )
    if decoding.engine == "native":
        from capsfusion_tasks.fusion.native import float8
        from capsfusion_tasks.fusion.native.checkpoint import load_llama
        from capsfusion_tasks.fusion.native.engine import NativeEngine

        # Check GPU and compiler before loading the weights, because loading takes minutes.
        if dtype == float8.DTYPE:
            float8.require(device)
        if on_cuda:
            from capsfusion_tasks.fusion.native import triton_ops

            triton_ops.require()

        started = time.monotonic()
        model = load_llama(folder, device, dtype)
        log.info("the weights are loaded after %.1f s", time.monotonic() - started)
        return NativeEngine(
            model,
            num_beams=decoding.num_beams,
            max_new_tokens=decoding.max_new_tokens,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            eos_ids=decoding.eos_ids,
            prefix=Prompt(tokenizer, template_of(decoding)).shared_prefix(),
            keep_beams=decoding.keep_beams,
            batch_size=job.batch_size,
        )
    from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model

    return TransformersEngine(
        load_model(folder, device, dtype),
        num_beams=decoding.num_beams,
        max_new_tokens=decoding.max_new_tokens,
        eos_ids=decoding.eos_ids,
        pad_id=tokenizer.pad_id,
        batch_size=job.batch_size or 32,
        keep_beams=decoding.keep_beams,
    )


class Progress:
    """Logs a line with the progress of all ranks, at most every PROGRESS_SECONDS."""

    def __init__(self, store: Store, pairs: PairsInput) -> None:
        self._store, self._pairs = store, pairs
        self._started = self._reported = time.monotonic()

    def wait_for_all(self, on_progress: Callable[[], None]) -> None:
        """Report the progress until all ranks of all nodes have written their rows to files.

        Calls ``on_progress`` whenever more rows were written.
        """
        before = -1
        while True:
            total, done = self._pairs.total(), self._written()
            if total is not None and done >= total:
                break
            if done > before:
                on_progress()
            before = done
            time.sleep(_POLL_SECONDS)
            self.report()
        self.report(now=True)

    def report(self, *, now: bool = False) -> None:
        since = time.monotonic() - self._reported
        if since < PROGRESS_SECONDS and not now:
            return
        self._reported += since
        found, rows, tokens, busy, slots = (self._store.add(key, 0) for key in ("found", *COUNTED))
        total = self._pairs.total()
        seconds = self._reported - self._started
        line = f"{rows + found}/{total if total is not None else '?'} rows"
        if found:
            line += f" ({found} of an earlier try)"
        if rows:
            line += (
                f", {rows / seconds:.1f} rows/s, {tokens / seconds:.0f} tokens/s"
                f", {busy / max(1, slots):.0%} of the batch occupied"
            )
        if rows and total is not None:
            line += f", {(total - rows - found) * seconds / rows:.0f} s to go"
        log.info("%s", line)

    def _written(self) -> int:
        return int(self._store.add("written", 0) + self._store.add("found", 0))


@record  # adds the rank's own traceback to torchrun's report of a failure
def main() -> int:
    die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=FuseJob.model_validate_json, help="the job as JSON; see fusion/job.py")
    job: FuseJob = parser.parse_args().job
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    logging.basicConfig(level=logging.INFO, format=f"rank {rank}: %(message)s", stream=sys.stdout)
    # Ranks share counters in torchrun's own store, which needs no second server and outlives each rank.
    store, _, _ = next(iter(rendezvous("env://")))
    try:
        fuse_rows(job, store, rank, local_rank, int(os.environ["LOCAL_WORLD_SIZE"]))
    except InputError as error:
        print(f"{INPUT_ERROR_MARK}{error}", flush=True)
        return 2
    except NotReadyError as error:
        print(f"{NOT_READY_MARK}{error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    exit_now(main() or 0)
