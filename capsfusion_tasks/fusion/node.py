"""Sets up a rank, which is a process that torchrun starts.

The rank ends when torchrun dies, and uses one GPU or a share of the CPU's cores.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil
import torch

from capsfusion_tasks.decoding import BUNDLED, Decoding
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.launcher import STARTED_BY
from capsfusion_tasks.fusion.torchrun_command import GPUS

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0
_AUTO = (None, "", "auto")  # values of CAPSFUSION_NPROC_PER_NODE that mean: start one rank per GPU


def die_with_parent() -> None:
    """Ask the kernel to send this rank SIGKILL when torchrun dies for any reason.

    torchrun starts each rank in its own session, so a signal to torchrun's process group does not reach the ranks.
    Without this function, after a SIGKILL to torchrun, the ranks would keep running and occupy the GPU.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent or _is_orphan(parent):  # torchrun died before prctl was called
        os.kill(os.getpid(), signal.SIGKILL)


def _is_orphan(parent: int) -> bool:
    """Whether torchrun has died, so that init or a service manager is now the parent of this rank."""
    started_by = os.environ.get(STARTED_BY)
    return parent == 1 or (started_by is not None and psutil.Process(parent).ppid() != int(started_by))


def require_gpu(decoding: Decoding) -> None:
    """Raise InputError if this rank must fuse on a GPU, but torch cannot use the GPUs that this node has.

    Without this check, the ranks would fuse on the CPU, far slower, and perhaps in a dtype that was chosen for a GPU.
    """
    gpus = os.environ.get(GPUS)
    for_cpu = decoding.location == BUNDLED and decoding.dtype == "float32"  # the demo model may run on the CPU
    if gpus is None or for_cpu or torch.cuda.is_available():
        return
    try:
        torch.cuda.current_device()
        reason = ""
    except (AssertionError, RuntimeError) as error:  # AssertionError: this torch was built without CUDA
        reason = f" ({str(error).strip().splitlines()[0]})"
    raise InputError(
        f"this node has {gpus} GPUs, but torch {torch.__version__} finds none{reason}: install a torch that fits the"
        " GPU's driver, or set CAPSFUSION_DEVICE=cpu and plan again to fuse on the CPU"
    )


def take_device(
    local_rank: int, local_world_size: int, on_wait: Callable[[], bool] = lambda: True
) -> tuple[torch.device, IO[bytes] | None] | None:
    """Choose the rank's device, and lock it if it is a GPU. Returns device and lock (None for the CPU).

    Keep the lock until the process ends, because the process uses the GPU's memory until then.

    The device is GPU number ``local_rank``. (Not the global rank, because the GPUs of each node are numbered from 0.)
    Waits until a rank of an earlier try or of another job has left the GPU, and calls ``on_wait`` every second.
    ``on_wait`` returns whether to wait longer. If it returns False, this function returns None. Without a GPU, the
    device is the CPU, with OMP_NUM_THREADS threads or a fair share of the cores. Raises InputError if this node has
    fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        if not os.environ.get("OMP_NUM_THREADS"):
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_world_size))
        log.info("torch finds no GPU: fusing on the CPU, with %d threads", torch.get_num_threads())
        return torch.device("cpu"), None
    if local_world_size > (gpus := torch.cuda.device_count()):
        raise InputError(
            f"{local_world_size} ranks were started on a node with {gpus} GPUs, and each rank needs its own GPU:"
            " set CAPSFUSION_NPROC_PER_NODE to auto"
        )
    if local_rank == 0 and local_world_size < gpus and os.environ.get("CAPSFUSION_NPROC_PER_NODE") in _AUTO:
        log.warning(
            "this node has %d GPUs, but ranks for only %d of them were started, because nvidia-smi failed or is"
            " missing: to use all GPUs, set CAPSFUSION_NPROC_PER_NODE=%d",
            *(gpus, local_world_size, gpus),
        )
    torch.cuda.set_device(local_rank)
    # Do not use cuDNN for attention. cuDNN spends time on a plan for each new shape of tensors, and nearly every
    # prefill has a new shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    name = torch.cuda.get_device_properties(local_rank).uuid
    path = Path(tempfile.gettempdir()) / f"capsfusion-gpu-{name}-{os.geteuid()}.lock"
    lock = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666), "r+b")
    if not _locks(lock):
        log.info("GPU %s is still used by another rank; waiting for that rank to end (lock file %s)", name, path)
        while not _locks(lock):
            if not on_wait():
                lock.close()
                return None
            time.sleep(_POLL_SECONDS)
    return torch.device("cuda", local_rank), lock


def _locks(lock: IO[bytes]) -> bool:
    """Try to lock the file. Returns False if another process has locked it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
