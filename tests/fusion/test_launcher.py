"""Ranks end when torchrun ends, for any reason. The tests use real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pytest

from capsfusion_tasks.decoding import BUNDLED
from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed
from capsfusion_tasks.fusion import torchrun_command
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.launcher import Torchrun, run
from capsfusion_tasks.fusion.torchrun_command import (
    environment_defaults,
    gpu_count,
    require_gpu_for,
    torchrun_argv,
    torchrun_environment,
)
from capsfusion_tasks.fusion.watchdog import Timeouts
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage
from tests.fusion.conftest import PAIRS


@pytest.fixture
def job(tiny_model: Path, tmp_path: Path) -> FuseJob:
    """A job of 2,000 rows in chunks of 4, which is long enough to be interrupted."""
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
    """Whether the process is torchrun or a rank. Other tests may also have started child processes."""
    return bool(re.search(r"pt_elastic|fusion\.worker", " ".join(process.cmdline())))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])  # SIGTERM: see terminate
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


def test_a_torchrun_that_ignores_sigterm_dies_with_whoever_started_it() -> None:
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid()); time.sleep(300)"
    code = "import sys; from capsfusion_tasks.fusion.launcher import run; run(sys.argv[1:])"
    argv = [sys.executable, "-c", code, sys.executable, "-c", deaf]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as starter:
        assert starter.stdout is not None
        torchrun = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
    _, alive = psutil.wait_procs([torchrun], timeout=30)
    assert not alive


def test_a_rank_whose_torchrun_is_gone_ends_at_once() -> None:
    code = """
import os
from capsfusion_tasks.fusion.node import die_with_parent

def exit_status(started_by):
    os.environ["TORCHRUN_STARTED_BY"] = str(started_by)
    if (child := os.fork()) == 0:
        die_with_parent()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(exit_status(os.getppid()), exit_status(os.getpid()))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["0", str(-signal.SIGKILL)], ended.stderr


@pytest.mark.slow
def test_a_rank_that_hangs_ends_all_of_them_and_the_retry_goes_on(job: FuseJob, tmp_path: Path) -> None:
    torchrun = Torchrun(torchrun_argv(job, 2), on_line=lambda line: None, timeouts=Timeouts(stall=4, loading=300))
    torchrun.start()
    wait_for_chunks(tmp_path, 4)
    family = [process for process in psutil.Process().children(recursive=True) if is_of_torchrun(process)]
    ranks = [process for process in family if process.environ().get("RANK") in ("0", "1")]
    assert len(ranks) == 2
    for rank in ranks:  # stop both, because a rank that is still loading counts as hung only after minutes
        rank.suspend()
    with pytest.raises(NotReadyError, match=r"ha\w+ finished no row for .* CAPSFUSION_STALL_MINUTES"):
        torchrun.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    assert len(list(tmp_path.glob("chunks/[0-9]*.parquet"))) >= 4


@pytest.mark.slow
def test_terminate_returns_at_once_and_ends_all(job: FuseJob, tmp_path: Path) -> None:
    torchrun = Torchrun(torchrun_argv(job, 2), on_line=lambda line: None)
    torchrun.start()
    wait_for_chunks(tmp_path, 2)
    family = [process for process in psutil.Process().children(recursive=True) if is_of_torchrun(process)]
    assert len(family) >= 3
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


@pytest.mark.parametrize("error", [InputError("no config.json"), NotReadyError("no space: make room")], ids=str)
def test_errors_that_a_rank_reports_are_raised_where_torchrun_was_started(
    job: FuseJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    from capsfusion_tasks.fusion import worker

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "fuse_rows", fail)
    monkeypatch.setattr(worker, "rendezvous", lambda _: iter([(None, 0, 1)]))
    monkeypatch.setattr(worker, "die_with_parent", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", job.model_dump_json()])
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    assert worker.main.__wrapped__() != 0  # call main without torchrun's decorator, which would record the failure
    reported = capsys.readouterr().out
    with pytest.raises(type(error), match=f"^{error}$"):
        run([sys.executable, "-c", f"print({reported!r}); raise SystemExit(1)"], on_line=lambda line: None)


# Kubeflow's pods, another torchrun, Slurm's jobs or some images set such variables.
OF_OTHER_LAUNCHERS = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "7",
    "PET_NO_PYTHON": "1",
    "PET_LOG_DIR": "/nowhere",
    "PET_VIRTUAL_LOCAL_RANK": "yes",
    "PYTHON_EXEC": "/bin/false",
    "LOGLEVEL": "info",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "False",
    "TORCHELASTIC_ERROR_FILE": "/nowhere/error.json",
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "soon",
    # Variables for torch's compilers. A fuse task does not compile, so these variables must not change anything.
    "TORCH_LOGS": "",  # torch does not treat an empty value as unset
    "TORCH_LOGS_OUT": "",
    "TORCHINDUCTOR_MIN_NUM_SPLIT": "many",
    "TORCHDYNAMO_REPRO_LEVEL": "high",
    "COMPILE_STROBELIGHT_SAMPLE_RATE": "often",
    "PYTORCH_JIT": "off",
    "TORCH_MKLDNN_MATMUL_MIN_DIM": "x",
    # Variables that make products of float32 less exact.
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    "NVIDIA_TF32_OVERRIDE": "1",
    "DNNL_DEFAULT_FPMATH_MODE": "BF16",
    "ONEDNN_DEFAULT_FPMATH_MODE": "ANY",
}


@pytest.mark.slow
def test_a_rank_that_crashes_shows_its_last_lines_also_inside_another_launcher(
    job: FuseJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OF_OTHER_LAUNCHERS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    missing = job.model_copy(update={"pairs": "nowhere.parquet"})
    with pytest.raises(TorchrunFailed, match=r"(?s)exit code 1; its last lines:.*nowhere\.parquet") as caught:
        run(torchrun_argv(missing, 1), on_line=lambda line: None)
    assert "launch_agent" not in str(caught.value), "torchrun's own functions are nobody's business"
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(("name", "value"), [("TORCH_DISTRIBUTED_DEBUG", "yes"), ("TORCH_LOGS_OUT", "/nowhere/log")])
def test_a_variable_that_torch_does_not_accept_is_one_line_that_names_it(
    job: FuseJob, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^torch cannot be loaded: \\w+: .*; torch reads {name}='{value}' from"):
        run(torchrun_argv(job, 1), on_line=lambda line: None)


def test_variables_of_other_launchers_do_not_reach_torchrun_and_all_others_do() -> None:
    given = {**OF_OTHER_LAUNCHERS, "NCCL_DEBUG": "INFO", "CUDA_VISIBLE_DEVICES": "1", "PETER": "x", "RANKING": "1"}
    environment = torchrun_environment({"CUDA_VISIBLE_DEVICES": "0", "NEW": "1"}, given)
    assert {name: environment[name] for name in ("NCCL_DEBUG", "CUDA_VISIBLE_DEVICES", "PETER", "RANKING", "NEW")} == {
        "NCCL_DEBUG": "INFO",
        "CUDA_VISIBLE_DEVICES": "1",
        "PETER": "x",
        "RANKING": "1",
        "NEW": "1",
    }
    assert not environment.keys() & OF_OTHER_LAUNCHERS.keys()


@pytest.mark.parametrize(
    ("given", "threads"),
    [("3", "3"), ("4,2", "4,2"), (" 5", " 5"), ("0", "8"), ("-1", "8"), ("many", "8"), ("", "8"), (None, "8")],
)
def test_threads_are_those_that_are_asked_for_or_a_fair_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, given: str | None, threads: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    defaults = environment_defaults(load_settings(nproc_per_node=2))
    environment = {} if given is None else {"OMP_NUM_THREADS": given}
    assert torchrun_environment(defaults, environment)["OMP_NUM_THREADS"] == threads


def test_a_rank_on_a_cpu_keeps_the_threads_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from capsfusion_tasks.fusion.node import take_device

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        take_device(0, 1)
        assert torch.get_num_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        take_device(0, 10_000)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("dtype", "hint"),
    [("bfloat16", "set CAPSFUSION_DTYPE=float8 and plan again, use a larger GPU"), ("float8", "use a larger GPU")],
)
def test_a_model_that_does_not_fit_on_the_gpu_is_one_line(
    job: FuseJob, monkeypatch: pytest.MonkeyPatch, dtype: str, hint: str
) -> None:
    import torch

    from capsfusion_tasks.fusion import worker

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 270.00 MiB.")

    monkeypatch.setattr(worker, "_load_engine", fail)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 23_500_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=25_400_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA L4")
    tight = job.model_copy(update={"decoding": job.decoding.model_copy(update={"dtype": dtype})})
    message = f"the model in {dtype} and one row do not fit on NVIDIA L4, .* 23.5 of 25.4 GB: {hint}, or end"
    with pytest.raises(InputError, match=message):
        worker.load_engine(tight, None, torch.device("cuda", 0))  # type: ignore[arg-type]


def test_more_ranks_than_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from capsfusion_tasks.fusion.node import take_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 ranks were started on a node with 1 GPUs"):
        take_device(0, 2)


@pytest.mark.parametrize(
    ("device", "counted", "dtype", "bundled", "refused"),
    [
        ("auto", 2, "bfloat16", False, True),
        ("auto", 2, "float32", False, True),
        ("gpu", 0, "bfloat16", False, True),
        ("auto", 2, "bfloat16", True, True),
        ("auto", 2, "float32", True, False),  # the demo model is planned for a CPU
        ("cpu", 2, "bfloat16", False, False),
        ("auto", 0, "bfloat16", False, False),
    ],
)
def test_gpus_that_torch_cannot_use_are_not_replaced_by_the_cpu(
    job: FuseJob,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    counted: int,
    dtype: str,
    bundled: bool,
    refused: bool,
) -> None:
    import torch
    from torch.distributed import HashStore

    from capsfusion_tasks.fusion import worker

    monkeypatch.setattr(torchrun_command, "gpu_count", lambda: counted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(worker, "take_device", lambda *_, **__: None)  # as if others fused all rows
    for name, value in environment_defaults(load_settings(device=device)).items():
        monkeypatch.setenv(name, value)
    place = {"location": BUNDLED} if bundled else {}
    tried = job.model_copy(update={"decoding": job.decoding.model_copy(update={"dtype": dtype, **place})})
    message = f"this node has {counted} GPUs, but torch .* finds none"
    with pytest.raises(InputError, match=message) if refused else nullcontext():
        worker.fuse_rows(tried, HashStore(), 1, 1, 2)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lets torch find two GPUs, without their work. Lock files lie in ``tmp_path``."""
    import torch

    from capsfusion_tasks.fusion import node

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda rank: SimpleNamespace(uuid=f"uuid{rank}"))
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda _: None)
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(node, "_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("gpus")
def test_a_rank_that_waits_for_its_gpu_shows_that_it_lives(caplog: pytest.LogCaptureFixture) -> None:
    from capsfusion_tasks.fusion.node import take_device

    caplog.set_level("INFO")
    _, other = take_device(1, 2)
    beats = []

    def beat() -> bool:
        beats.append(1)
        if len(beats) == 3:
            other.close()  # the other rank ends
        return True

    device, _lock = take_device(1, 2, on_wait=beat)
    assert (device.index, len(beats)) == (1, 3)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("GPU uuid1 is still used by another rank; waiting")
    assert take_device(1, 2, on_wait=lambda: False) is None


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("chosen", "ranks", "warnings"), [(None, 1, 1), ("", 1, 1), ("auto", 1, 1), ("1", 1, 0), (None, 2, 0)]
)
def test_gpus_that_stay_idle_are_named_unless_the_user_wants_it_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, chosen: str | None, ranks: int, warnings: int
) -> None:
    from capsfusion_tasks.fusion.node import take_device

    monkeypatch.delenv("CAPSFUSION_NPROC_PER_NODE", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CAPSFUSION_NPROC_PER_NODE", chosen)
    for rank in range(ranks):
        take_device(rank, ranks)
    told = [line for line in caplog.messages if line.startswith("this node has 2 GPUs, but ranks for only 1 of them")]
    assert told == caplog.messages
    assert len(told) == warnings


def test_ranks_learn_the_number_that_the_user_chose_for_them() -> None:
    name = "CAPSFUSION_NPROC_PER_NODE"
    assert environment_defaults(load_settings(nproc_per_node=1))[name] == "1"
    assert name not in environment_defaults(load_settings(nproc_per_node="auto"))


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
    (tmp_path / "file").touch()  # Home is a file, so no cache folder can be made in it. Triton then uses its default.
    assert "TRITON_CACHE_DIR" not in environment_defaults(load_settings(home=tmp_path / "file"))
    assert "TRITON_CACHE_DIR" in environment_defaults(load_settings(home=tmp_path / "new" / "home"))


def test_gpus_that_are_hidden_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_count() == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert gpu_count() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,3")  # CUDA ignores all entries after an invalid one
    assert gpu_count() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    assert "--nproc-per-node 2 " in " ".join(torchrun_argv_of_nothing())


def test_float8_is_refused_only_where_there_is_no_gpu_for_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        InputError, match=r"float8 needs a GPU .*, and this machine has no GPU: choose --dtype bfloat16"
    ):
        require_gpu_for("float8")
    require_gpu_for("bfloat16")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    require_gpu_for("float8")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torchrun_command, "gpu_count", lambda: 0)
    monkeypatch.setattr(torchrun_command, "_CUDA", "libno-such-library.so.1")
    with pytest.raises(InputError, match="this machine has no GPU"):
        require_gpu_for("float8")
    monkeypatch.setattr(torchrun_command, "_CUDA", None)  # dlopen(NULL) always succeeds, as if the library were there
    require_gpu_for("float8")


@pytest.mark.parametrize(
    "failure",
    [
        FileNotFoundError("nvidia-smi"),
        subprocess.CalledProcessError(9, "nvidia-smi"),
        subprocess.TimeoutExpired("", 60),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_where_nvidia_smi_fails_the_drivers_gpus_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(torchrun_command, "_DRIVER_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(torchrun_command, "_DEVICES", tmp_path)
    assert gpu_count() == 0
    for name in ("0000:19:00.0", "0000:3b:00.0", "0000:4c:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert gpu_count() == 0  # a container without GPUs on a host with GPUs
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpu_count() == 2


def torchrun_argv_of_nothing() -> list[str]:
    settings = load_settings()
    job = FuseJob.of(settings, decide(settings), staging="", pairs="", chunks="")
    return torchrun_argv(job, "auto")


def test_the_job_survives_the_command_line(job: FuseJob) -> None:
    assert FuseJob.model_validate_json(torchrun_argv(job, 1)[-1]) == job
    assert os.fspath(sys.executable) == torchrun_argv(job, 1)[0]
