"""Defines what all parts of the GPU benchmark share: options, cases (measurements), and lines of the result table."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console

from benchmarks.device_rates import FLOAT8
from benchmarks.gpu.card import has_float8

# Cases are forked from a process that has already imported these modules. This saves each case the seconds that
# importing torch and transformers takes.
_PRELOADED = ["benchmarks.gpu.exactness", "benchmarks.gpu.rates"]
_DYING_SECONDS = 2.0  # seconds after a kill until the GPU's memory is free again
_LAST_LINES = 40

console = Console(width=120, highlight=False)
Figures = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Options of all parts. ``exact_rows``, ``rows``, ``fuse_rows``: rows for the parts exactness, rates and fuse."""

    device: torch.device
    pairs: Path | None
    tokenizer: Path
    size: str
    exact_rows: int
    rows: int
    fuse_rows: int
    model: Path  # the model that the part "fuse" uses
    scratch: Path
    beams: Sequence[int] = (3, 1)  # numbers of beams to measure in the part "rates"
    # Maximum numbers of slots to measure in the part "rates". None: as many as the engine chooses.
    slots: Sequence[int | None] = (None,)

    def dtypes(self) -> list[torch.dtype]:
        """The dtypes to measure on the device."""
        if self.device.type != "cuda":
            return [torch.float32]
        return [torch.bfloat16, FLOAT8] if has_float8(self.device) else [torch.bfloat16]


@dataclass(frozen=True)
class Line:
    """A line of the result table. ``figures``: measured values for ``--json``, durations in seconds, sizes in bytes."""

    case: str
    result: str
    more: str = ""
    figures: Figures = field(default_factory=dict)
    ok: bool = True


@dataclass(frozen=True)
class Case:
    """A measurement that takes at most ``seconds``. ``run`` gets what earlier cases measured: name → measured values.

    ``run`` must be picklable: a module's function, or a partial of such a function. If the case fails, the end of
    ``log`` is printed.
    """

    name: str
    run: Callable[[Mapping[str, Figures]], Sequence[Line]]
    seconds: float = 120.0
    log: Path | None = None


def run_case(case: Case, found: Mapping[str, Figures]) -> Sequence[Line]:
    """Run the case in its own process, so that the next case has the whole GPU even if this case fails.

    The process is forked from a server that has imported torch and never uses the GPU. When the case ends, all
    processes that it started are killed.
    """
    console.rule(case.name, align="left")
    started = time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(case, found, sender))
    process.start()  # returns once the process runs, so the time limit does not include the server's imports
    sender.close()
    lines: Sequence[Line]
    try:
        if receiver.poll(case.seconds):
            lines = receiver.recv()
            process.join(timeout=10)
        else:
            lines = [_failed(case, f"took longer than {case.seconds:.0f} s")]
    except EOFError:
        lines = [_failed(case, "its process died")]
    finally:
        _end(process)
    if case.log and case.log.exists() and not all(line.ok for line in lines):
        last = case.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        console.print(f"the end of {case.log.name}:", *last, sep="\n", markup=False)
    for line in lines:
        console.print(f"{line.case}: {line.result}; {line.more}", markup=False)
    console.print(f"{time.monotonic() - started:.1f} s", style="dim")
    return lines


def _run(case: Case, found: Mapping[str, Figures], sender: Connection) -> None:
    os.setsid()  # start a new process group, so that _end can kill the whole group
    torch.backends.cuda.enable_cudnn_sdp(False)  # use no cuDNN attention, as in the pipeline; fusion/node.py says why
    # With a GPU, one thread is enough, because the CPU computes nothing. Without a GPU, measurements with one thread
    # depend less on other load.
    torch.set_num_threads(1)
    try:
        lines = list(case.run(found))
    except Exception as error:
        traceback.print_exc()
        lines = [_failed(case, f"{type(error).__name__}: {str(error).strip()}")]
    sender.send(lines)


def _end(process: BaseProcess) -> None:
    """Kill the process, its process group, and all its descendants, because torchrun starts each rank in a new group.

    A rank (a worker process of torchrun) ends by itself when torchrun dies, but only once the rank has finished its
    imports (fusion/node.py).
    """
    pid = cast(int, process.pid)
    family = _descendants(pid)
    process.kill()
    process.join()
    killed = False
    for kill, target in ((os.killpg, pid), *((os.kill, descendant) for descendant in family)):
        with suppress(ProcessLookupError):  # the process has ended
            kill(target, signal.SIGKILL)
            killed = True
    if killed:
        time.sleep(_DYING_SECONDS)  # wait, because the next case needs the GPU's memory


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _failed(case: Case, why: str) -> Line:
    return Line(case.name, "FAILED", why.splitlines()[0][:200], ok=False)


def name_of(dtype: torch.dtype) -> str:
    return "float8" if dtype == FLOAT8 else str(dtype).removeprefix("torch.")


def name_of_beams(beams: int) -> str:
    return "greedy" if beams == 1 else f"{beams} beams"
