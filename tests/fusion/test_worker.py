"""Tests how ranks work on a job, and which rows a killed rank loses, with a tiny model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest
import torch
from torch.distributed import HashStore

from capsfusion_tasks.errors import InputError, TorchrunFailed
from capsfusion_tasks.fusion import chunks, worker
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.launcher import Torchrun
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.pairs_input import write_pieces
from capsfusion_tasks.fusion.torchrun_command import torchrun_argv
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage
from tests.fusion.conftest import PAIRS
from tests.one_process import RankThreads

TABLE = pa.Table.from_pylist(PAIRS)  # 50 rows
PIECE = 20


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> FuseJob:
    settings = load_settings(model=str(tiny_model), max_new_tokens=4, chunk_rows=5)
    decoding = decide(settings).model_copy(update={"fusion_id": "f"})
    return FuseJob.of(settings, decoding, staging=str(tmp_path), pairs="pairs", piece_rows=PIECE, chunks="chunks")


def with_limit(job: FuseJob, max_new_tokens: int) -> FuseJob:
    return job.model_copy(update={"decoding": job.decoding.model_copy(update={"max_new_tokens": max_new_tokens})})


def pieces() -> Iterator[pa.Table]:
    return (TABLE.slice(start, PIECE) for start in range(0, len(PAIRS), PIECE))


def finished(storage: Storage, rows: int = len(PAIRS)) -> list[int]:
    return list(chunks.collect(storage, "chunks", "f", rows, ["row"])["row"].to_pylist())


def fuse(job: FuseJob) -> str:
    """Fuse the job with one rank. Returns the last progress line that the rank prints."""
    lines: list[str] = []
    ranks = RankThreads(torchrun_argv(job, 1), on_line=lines.append)
    ranks.start()
    ranks.wait()
    return lines[-1]


def test_the_first_captions_do_not_wait_for_the_rest_of_the_pairs(storage: Storage, job: FuseJob) -> None:
    ranks = RankThreads(torchrun_argv(job, 2), on_line=lambda line: None)
    ranks.start()
    all_pieces = pieces()

    def slowly() -> Iterator[pa.Table]:
        yield next(all_pieces)
        deadline = time.monotonic() + 120
        while not finished(storage):
            assert time.monotonic() < deadline, "no caption before all pairs were there"
            time.sleep(0.05)
        yield from all_pieces

    try:
        assert write_pieces(storage, job.pairs, slowly()) == 50
        ranks.wait()
    finally:
        ranks.terminate()
    assert finished(storage) == list(range(50))


def test_a_rank_that_waits_for_its_gpu_holds_no_rows(
    storage: Storage, job: FuseJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pieces(storage, job.pairs, pieces())
    store = HashStore()
    take_device = worker.take_device

    def busy(local_rank: int, local_world_size: int, on_wait: Callable[[], bool]) -> None:
        """Another job uses the GPU of rank 1. In the meantime, rank 0 fuses all rows."""
        assert on_wait()
        monkeypatch.setattr(worker, "take_device", take_device)
        worker.fuse_rows(job, store, 0, 0, 2)
        assert not on_wait()

    monkeypatch.setattr(worker, "take_device", busy)
    worker.fuse_rows(job, store, 1, 1, 2)
    assert finished(storage) == list(range(50))
    # Neither a wait for a GPU nor an engine, because no rows are left.
    monkeypatch.setattr(worker, "take_device", None)
    worker.fuse_rows(job, HashStore(), 0, 0, 1)


def test_memory_that_is_too_small_for_one_row_after_loading_is_one_line(
    storage: Storage, job: FuseJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: NativeEngine) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 270.00 MiB.")

    write_pieces(storage, job.pairs, pieces())
    monkeypatch.setattr(NativeEngine, "_allocate", fail)
    for name, value in {
        "memory_allocated": 23_500_000_000,
        "get_device_properties": SimpleNamespace(total_memory=25_400_000_000),
        "get_device_name": "NVIDIA L4",
        "empty_cache": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    with pytest.raises(InputError, match=r"the model in float32 and one row do not fit on NVIDIA L4, .*23\.5 of 25\.4"):
        worker.fuse_rows(job, HashStore(), 0, 0, 1)


@pytest.mark.slow
def test_two_nodes_share_one_unit(storage: Storage, job: FuseJob) -> None:
    write_pieces(storage, job.pairs, pieces())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    rendezvous = [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        "--rdzv-id",
        "unit",
        "--local-addr",
        "127.0.0.1",
        "--log-dir",
        os.devnull,
    ]
    worker = ["-m", "capsfusion_tasks.fusion.worker", job.model_dump_json()]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *rendezvous]
    nodes = [subprocess.Popen([*command, *worker], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert sum("rank 0: 50/50 rows" in output for output in outputs) == 1
    assert finished(storage) == list(range(50))


@pytest.mark.slow
def test_a_killed_rank_loses_only_rows_in_flight_and_those_since_the_last_write(storage: Storage, job: FuseJob) -> None:
    storage.write_table("many", pa.concat_tables([TABLE] * 40))
    rows = 40 * len(PAIRS)
    slow = {"batch_size": 4, "claim_rows": 8, "write_seconds": 0.2}
    # Chunks are so large that none gets full. So each rank rewrites its only file repeatedly.
    first = with_limit(job, 40).model_copy(update={"pairs": "many", "piece_rows": None, "chunk_rows": 4096, **slow})
    torchrun = Torchrun(torchrun_argv(first, 2), on_line=lambda line: None)
    torchrun.start()
    deadline = time.monotonic() + 200
    while len(storage.files("chunks")) < 2 or len(finished(storage, rows=rows)) < 60:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Choose the ranks among the child processes, which may include other tests' browsers and databases.
    children = psutil.Process().children(recursive=True)
    ranks = [process for process in children if process.environ().get("RANK") in ("0", "1")]
    assert len(ranks) == 2
    before = finished(storage, rows=rows)
    ranks[1].kill()
    with pytest.raises(TorchrunFailed):
        torchrun.wait()
    assert len(storage.files("chunks")) == 2
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    kept = finished(storage, rows=rows)
    assert {*before} <= {*kept} < {*range(rows)}

    # The second try has another token limit, so that its captions can be distinguished. It also has other chunk sizes.
    sizes = {"chunk_rows": 700, "claim_rows": 7, "batch_size": 32}
    assert f"{rows}/{rows} rows ({len(kept)} of an earlier try)" in fuse(with_limit(first, 1).model_copy(update=sizes))
    table, figures = chunks.figures(storage, "chunks", "f", rows)
    assert chunks.what_is_missing(table, rows) is None
    assert [row for row, tokens in enumerate(table["caption_tokens"].to_pylist()) if tokens > 1] == kept
    assert figures.rows == rows
