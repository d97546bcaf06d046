"""Makes the command that starts torchrun for a job, its environment variables, and the number of ranks to start.

Does not import torch, because Airflow tasks import this module.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Literal

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.settings import Settings

# Number of iterations that an OpenMP thread spins while it waits for other threads. With OpenMP's default, two jobs on
# one CPU are seven times slower than one job. With 2,000 iterations, each of two jobs has half the speed of a single
# job, and a single job is as fast as with the default.
DEFAULTS = {"GOMP_SPINCOUNT": "2000"}
# Environment variable for the ranks: the result of ``gpu_count``. Set only if the ranks must fuse on GPUs, and must not
# fall back to the CPU (``node.require_gpu``).
GPUS = "TORCHRUN_GPUS"
# Names of environment variables that torchrun must not get.
_NOT_FOR_TORCHRUN = re.compile(
    # Variables of other launchers. They are set in Kubeflow's pods and in processes that another torchrun started.
    # torchrun would take PET_* as its own arguments, and PYTHON_EXEC as the program of its ranks.
    r"PET_.*|TORCH_?ELASTIC_.*|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|PYTHON_EXEC"
    # Many container images set LOGLEVEL=info, which ends torchrun with a traceback, because the names of Python's log
    # levels are upper-case.
    r"|LOGLEVEL"
    # Variables of three features of torch: compilers, which fuse tasks never use; the sanitizer, which fails on the
    # engine; and the matrix size from which torch uses MKL-DNN on a CPU. With wrong values of these variables, torch
    # ends with a traceback, or every row fails.
    r"|TORCH_?(INDUCTOR|DYNAMO|COMPILE|COMPILER)_.*|(AOT_?INDUCTOR|AOT|COMPILE_STROBELIGHT|PYTORCH_JIT)_.*|PYTORCH_JIT"
    r"|PYTORCH_MATCHER_LOGLEVEL|TORCH_CUDA_SANITIZER|TORCH_MKLDNN_MATMUL_MIN_(DIM|SIZE)|TORCH_PYTHON_NATIVE_.*"
    # Many container images set these variables. They make float32 matrix products less exact (TF32 or bfloat16), but
    # the captions would still be recorded as fused in float32.
    r"|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|NVIDIA_TF32_OVERRIDE|(ONEDNN|DNNL)_DEFAULT_FPMATH_MODE"
)
_CUDA = "libcuda.so.1"  # the library of the GPU's driver
_DRIVER_GPUS, _DEVICES = Path("/proc/driver/nvidia/gpus"), Path("/dev")
# A value of OMP_NUM_THREADS that OpenMP accepts: a number, and after commas the numbers for nested levels.
_THREADS = re.compile(r"\s*0*[1-9]\d{0,3}\s*(,.*)?")


def environment_defaults(settings: Settings) -> dict[str, str]:
    """The argument ``defaults`` of ``Torchrun``: variables that torchrun gets if the environment does not set them."""
    cores, gpus = len(os.sched_getaffinity(0)), gpu_count()
    environment = {
        **DEFAULTS,
        # Without this value, torchrun gives each rank only one thread if there are several ranks.
        "OMP_NUM_THREADS": str(max(1, cores // rank_count(settings.nproc_per_node, gpus))),
    }
    if settings.device == "gpu" or (settings.device == "auto" and gpus):
        environment[GPUS] = str(gpus)
    if settings.nproc_per_node != "auto":
        # The setting may come from the command line, so pass it on in this variable. If the variable is a number, ranks
        # do not warn of idle GPUs.
        environment["CAPSFUSION_NPROC_PER_NODE"] = str(settings.nproc_per_node)
    if _is_writable(settings.home):
        # This folder outlives the container, so that the next task finds the compiled kernels.
        environment["TRITON_CACHE_DIR"] = str(settings.home / "triton")
    return environment


def _is_writable(folder: Path) -> bool:
    """Whether files can be created in ``folder``. If ``folder`` is missing: whether it can be created."""
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


def torchrun_environment(defaults: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables that torchrun must not get, plus ``defaults`` for variables not set."""
    kept = {name: value for name, value in environment.items() if not _NOT_FOR_TORCHRUN.fullmatch(name)}
    for name in ("TORCH_LOGS", "TORCH_LOGS_OUT"):  # torch fails on empty values, which compose files can set
        if not kept.get(name):
            kept.pop(name, None)
    if not _THREADS.fullmatch(kept.get("OMP_NUM_THREADS", "")):
        kept.pop("OMP_NUM_THREADS", None)
    return {**defaults, **kept, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:backslashreplace"}


def torchrun_argv(job: FuseJob, nproc_per_node: Literal["auto"] | int) -> list[str]:
    """The command that fuses ``job`` on this node."""
    return [
        *(sys.executable, "-m", "capsfusion_tasks.fusion.torchrun", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nnodes", "1", "--nproc-per-node", str(rank_count(nproc_per_node)), "--max-restarts", "0"),
        # No log folder: ranks print their errors themselves, and a killed torchrun would leave the folder behind.
        *("--log-dir", os.devnull),
        *("-m", "capsfusion_tasks.fusion.worker", job.model_dump_json()),
    ]


def rank_count(nproc_per_node: Literal["auto"] | int, gpus: int | None = None) -> int:
    """Number of ranks to start on this node. For auto: one per GPU, or one if there is no GPU.

    ``gpus``: the number of GPUs. None: ``gpu_count`` counts them.
    """
    if nproc_per_node != "auto":
        return nproc_per_node
    return (gpu_count() if gpus is None else gpus) or 1


def gpu_count() -> int:
    """Number of GPUs that this process may use. Does not import torch, because that takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # CUDA ignores the first -1 and all names after it.
        return len([*takewhile(lambda name: name not in ("", "-1"), map(str.strip, visible.split(",")))])
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):  # nvidia-smi is missing, fails, or hangs
        return _gpus_of_driver()
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def require_gpu_for(dtype: str) -> None:
    """Raise InputError if ``dtype`` needs a GPU and this machine has none.

    Whether the GPU supports ``dtype`` is checked later, by the ranks.

    A GPU may be there although ``gpu_count`` finds none, for example if nvidia-smi is not on the path. So this check
    also looks for CUDA's library, without which torch finds no GPU.
    """
    if dtype != "float8" or gpu_count() or (os.environ.get("CUDA_VISIBLE_DEVICES") is None and _has_cuda()):
        return
    raise InputError(
        "float8 needs a GPU of compute capability 8.9 or higher (Ada, Hopper or newer), and this machine has no GPU:"
        " choose --dtype bfloat16, or set CAPSFUSION_DTYPE=bfloat16 and plan again"
    )


def _has_cuda() -> bool:
    try:
        ctypes.CDLL(_CUDA)
    except OSError:
        return False
    return True


def _gpus_of_driver() -> int:
    """Number of GPUs that the driver has and whose device files this process may use.

    A container without GPUs still sees the host's GPUs in /proc, but has no device files for them.
    """
    files = [file for file in _DEVICES.glob("nvidia[0-9]*") if os.access(file, os.R_OK | os.W_OK)]
    return min(len([*_DRIVER_GPUS.glob("*")]), len(files))
