"""What the parts have in common: options, cases, and the lines of the table that cases become."""

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

# These import torch and transformers: seconds, which a process forked from one that has them saves.
_PRELOADED = ["benchmarks.gpu.exactness", "benchmarks.gpu.rates"]
_DYING_SECONDS = 2.0  # of killed processes that hold a GPU's memory
_LAST_LINES = 40

console = Console(width=120, highlight=False)
Figures = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """``exact_rows`` are compared with transformers', ``rows`` measure rates, ``fuse_rows`` are fused end to end."""

    device: torch.device
    pairs: Path | None
    tokenizer: Path
    size: str
    exact_rows: int
    rows: int
    fuse_rows: int
    model: Path  # that is fused with from end to end
    scratch: Path

    def dtypes(self) -> list[torch.dtype]:
        """Those that are worth measuring on the device."""
        if self.device.type != "cuda":
            return [torch.float32]
        return [torch.bfloat16, FLOAT8] if has_float8(self.device) else [torch.bfloat16]


@dataclass(frozen=True)
class Line:
    """A line of the table, and all its figures for ``--json``: durations in seconds, sizes in bytes."""

    case: str
    result: str
    more: str = ""
    figures: Figures = field(default_factory=dict)
    ok: bool = True


@dataclass(frozen=True)
class Case:
    """Something to measure, in at most ``seconds``. ``run`` gets the figures of the cases before it, by their lines.

    ``run`` must pickle: a module's function, or a partial of one. The end of ``log`` is printed where the case fails.
    """

    name: str
    run: Callable[[Mapping[str, Figures]], Sequence[Line]]
    seconds: float = 120.0
    log: Path | None = None


def run_case(case: Case, found: Mapping[str, Figures]) -> Sequence[Line]:
    """Run the case in a process of its own: whatever becomes of it there, the next one has a whole GPU for itself.

    It is forked from a server that has imported torch and never uses the GPU. All that it started ends with it.
    """
    console.rule(case.name, align="left")
    started = time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(case, found, sender))
    process.start()  # returns when the process is there: the limit does not count the server's imports
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
    os.setsid()  # a group of its own, which _end kills
    torch.backends.cuda.enable_cudnn_sdp(False)  # as in a rank: fusion/node.py
    # Where there is a GPU the CPU computes nothing, and where there is none, other work should not be in its way.
    torch.set_num_threads(1)
    try:
        lines = list(case.run(found))
    except Exception as error:
        traceback.print_exc()
        lines = [_failed(case, f"{type(error).__name__}: {str(error).strip()}")]
    sender.send(lines)


def _end(process: BaseProcess) -> None:
    """Kill the process, and all that it started: its group, and ranks, which torchrun starts in groups of their own.

    Ranks die with torchrun, but not before their imports are done: fusion/node.py.
    """
    pid = cast(int, process.pid)
    family = _descendants(pid)
    process.kill()
    process.join()
    killed = False
    for kill, target in ((os.killpg, pid), *((os.kill, descendant) for descendant in family)):
        with suppress(ProcessLookupError):  # it has ended
            kill(target, signal.SIGKILL)
            killed = True
    if killed:
        time.sleep(_DYING_SECONDS)  # the next case needs the GPU's memory


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
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
