"""What torchrun's ranks do with a job: real torchrun, a tiny model."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from capsfusion_tasks.fusion import chunks
from capsfusion_tasks.fusion.launcher import FuseJob, run, torchrun_argv
from capsfusion_tasks.fusion.pairs_input import write_pieces
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.storage import Storage
from tests.fusion.conftest import PAIRS

TABLE = pa.Table.from_pylist(PAIRS)  # 50 rows
PIECE = 20


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> FuseJob:
    settings = load_settings(model=str(tiny_model), max_new_tokens=4, chunk_rows=5)
    return FuseJob.of(settings, staging=str(tmp_path), pairs="pairs", piece_rows=PIECE, chunks="chunks", fusion_id="f")


def pieces() -> Iterator[pa.Table]:
    return (TABLE.slice(start, PIECE) for start in range(0, len(PAIRS), PIECE))


def fused(storage: Storage) -> pa.Table:
    return chunks.collect(storage, chunks.cut_chunks(TABLE, "chunks", "f", 5))


def test_the_first_captions_do_not_wait_for_the_rest_of_the_pairs(storage: Storage, job: FuseJob) -> None:
    torchrun = subprocess.Popen(torchrun_argv(job, 2), stdout=subprocess.DEVNULL)
    all_pieces = pieces()

    def slowly() -> Iterator[pa.Table]:
        yield next(all_pieces)
        deadline = time.monotonic() + 120
        while not storage.exists("chunks/00003.parquet"):
            assert time.monotonic() < deadline, "no caption before all pairs were there"
            time.sleep(0.05)
        yield from all_pieces

    try:
        assert write_pieces(storage, job.pairs, slowly()) == 50
        assert torchrun.wait(timeout=60) == 0
    finally:
        torchrun.kill()
        torchrun.wait()
    assert fused(storage)["row"].to_pylist() == list(range(50))


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
    ]
    worker = ["-m", "capsfusion_tasks.fusion.worker", job.model_dump_json()]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *rendezvous]
    nodes = [subprocess.Popen([*command, *worker], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert sum("rank 0: 50/50 rows" in output for output in outputs) == 1
    assert fused(storage)["row"].to_pylist() == list(range(50))


def test_a_retry_after_the_kill_of_one_rank_makes_each_row_once(storage: Storage, job: FuseJob) -> None:
    write_pieces(storage, job.pairs, pieces())
    slow = job.model_copy(update={"max_new_tokens": 40, "batch_size": 1, "chunk_rows": 2})
    torchrun = subprocess.Popen(torchrun_argv(slow, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not storage.files("chunks"):
        assert torchrun.poll() is None
        time.sleep(0.01)
    family = psutil.Process(torchrun.pid).children(recursive=True)
    ranks = [process for process in family if "capsfusion_tasks.fusion.worker" in process.cmdline()]
    assert len(ranks) == 2
    ranks[1].kill()
    assert torchrun.wait(timeout=60) != 0
    assert 0 < len(storage.files("chunks")) < 25
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    run(torchrun_argv(slow, 2))
    cut = chunks.cut_chunks(TABLE, "chunks", "f", 2)
    assert chunks.collect(storage, cut)["row"].to_pylist() == list(range(50))


def test_smaller_chunks_of_an_earlier_try_do_not_stay(storage: Storage, job: FuseJob) -> None:
    write_pieces(storage, job.pairs, pieces())
    run(torchrun_argv(job.model_copy(update={"chunk_rows": 2}), 1))
    assert len(storage.files("chunks")) == 25
    run(torchrun_argv(job, 1))
    assert storage.files("chunks") == [f"chunks/{number:05d}.parquet" for number in range(10)]
    assert fused(storage)["row"].to_pylist() == list(range(50))
