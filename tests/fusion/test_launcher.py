"""No rank outlives its torchrun, however that ends. Real processes, no stand-ins."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.launcher import (
    Torchrun,
    TorchrunFailed,
    environment_defaults,
    gpu_count,
    run,
    torchrun_argv,
)
from capsfusion_tasks.fusion.stall import Patience
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage
from tests.fusion.conftest import PAIRS


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> FuseJob:
    """Enough work to be interrupted in: 2,000 rows in chunks of 4."""
    Storage(str(tmp_path)).write_table("pairs.parquet", pa.Table.from_pylist(PAIRS * 40))
    settings = load_settings(model=str(tiny_model), max_new_tokens=20, chunk_rows=4)
    return FuseJob.of(settings, decide(settings), staging=str(tmp_path), pairs="pairs.parquet", chunks="chunks")


def wait_for_chunks(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob("chunks/[0-9]*.parquet"))) < count:
        assert time.monotonic() < deadline, "no chunk was finished"
        time.sleep(0.05)


def family_of(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def is_of_torchrun(process: psutil.Process) -> bool:
    """torchrun and its ranks, beside whatever other tests keep."""
    return bool(re.search(r"pt_elastic|fusion\.worker", " ".join(process.cmdline())))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_ranks_die_with_torchrun(job: FuseJob, tmp_path: Path, kill: signal.Signals) -> None:
    torchrun = subprocess.Popen(
        torchrun_argv(job, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_chunks(tmp_path, 2)
    family = family_of(torchrun.pid)
    assert len(family) >= 3
    torchrun.send_signal(kill)
    torchrun.wait(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_ranks_die_with_whoever_started_torchrun(job: FuseJob, tmp_path: Path) -> None:
    code = "import sys; from capsfusion_tasks.fusion.launcher import run; run(sys.argv[1:])"
    starter = subprocess.Popen(
        [sys.executable, "-c", code, *torchrun_argv(job, 2)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_chunks(tmp_path, 2)
    family = family_of(starter.pid)
    assert len(family) >= 4
    starter.kill()
    starter.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_of_them_and_the_retry_goes_on(job: FuseJob, tmp_path: Path) -> None:
    torchrun = Torchrun(torchrun_argv(job, 2), on_line=lambda line: None, patience=Patience(stall=4, loading=300))
    torchrun.start()
    wait_for_chunks(tmp_path, 4)
    family = [process for process in psutil.Process().children(recursive=True) if is_of_torchrun(process)]
    ranks = [process for process in family if process.environ().get("RANK") in ("0", "1")]
    assert len(ranks) == 2
    for rank in ranks:  # both: one of them may still be loading its model, and have minutes for that
        rank.suspend()
    with pytest.raises(NotReadyError, match=r"ha\w+ finished no row for .* CAPSFUSION_STALL_MINUTES"):
        torchrun.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert len(list(tmp_path.glob("chunks/[0-9]*.parquet"))) >= 4


@pytest.mark.slow
def test_terminate_returns_at_once_and_ends_all(job: FuseJob, tmp_path: Path) -> None:
    torchrun = Torchrun(torchrun_argv(job, 1), on_line=lambda line: None)
    torchrun.start()
    wait_for_chunks(tmp_path, 1)
    family = [process for process in psutil.Process().children(recursive=True) if is_of_torchrun(process)]
    assert len(family) >= 2
    started = time.monotonic()
    torchrun.terminate()
    assert time.monotonic() - started < 1
    with pytest.raises(TorchrunFailed):
        torchrun.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive


@pytest.mark.slow
def test_bad_input_that_a_rank_meets_is_one_line(job: FuseJob, tmp_path: Path) -> None:
    broken = job.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(InputError, match=r"^\S+ has no config\.json"):
        run(torchrun_argv(broken, 1), on_line=lambda line: None)


@pytest.mark.slow
def test_a_rank_that_crashes_shows_its_last_lines(job: FuseJob) -> None:
    missing = job.model_copy(update={"pairs": "nowhere.parquet"})
    with pytest.raises(TorchrunFailed, match=r"(?s)exit code 1; its last lines:.*nowhere\.parquet"):
        run(torchrun_argv(missing, 1), on_line=lambda line: None)


def test_compiled_kernels_lie_where_the_next_task_finds_them_unless_the_user_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    argv = [sys.executable, "-c", "import os; print(os.environ['TRITON_CACHE_DIR'])"]
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    run(argv, on_line=lines.append, defaults=environment_defaults(load_settings(home=tmp_path)))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    run(argv, on_line=lines.append, defaults=environment_defaults(load_settings(home=tmp_path)))
    assert lines == [str(tmp_path / "triton"), "/elsewhere"]


def test_gpus_that_are_hidden_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_count() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert gpu_count() == 2
    assert "--nproc-per-node 2 " in " ".join(torchrun_argv_of_nothing())


def torchrun_argv_of_nothing() -> list[str]:
    settings = load_settings()
    job = FuseJob.of(settings, decide(settings), staging="", pairs="", chunks="")
    return torchrun_argv(job, "auto")


def test_the_job_survives_the_command_line(job: FuseJob) -> None:
    assert FuseJob.model_validate_json(torchrun_argv(job, 1)[-1]) == job
    assert os.fspath(sys.executable) == torchrun_argv(job, 1)[0]
