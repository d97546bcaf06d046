"""Measure the engine on one GPU in about six minutes, and print one table for docs/benchmarks.md.

    python -m benchmarks.random_checkpoint FOLDER --pairs FILE --tokenizer FILE
    python -m benchmarks.gpu --pairs FILE --tokenizer FILE --checkpoint FOLDER [--json FILE]

- kernels: the tests of the Triton kernels.
- exactness: whether captions in float32 equal those of transformers, for the demo model and a random LLaMA with
  grouped-query attention.
- rates: rows/s and the share of busy slots (a slot decodes one row at a time) with a random 13B LLaMA, in bfloat16 and
  float8, with 3 beams and with greedy search.
- memory: whether GPU memory suffices if all slots have the longest rows, on this card and on simulated smaller cards.
  Runs only with --parts memory.
- fuse: ``capsfusion fuse`` from end to end with a 13B model stored as .bin files, killed once and started again.

Each measurement has its own process and time limit, so the benchmark continues if a measurement fails. In this case,
the exit code is 1. Without --checkpoint, a random 13B checkpoint is written first (26 GB of disk). On a CPU, models are
small and rows are few. A run on a CPU only shows that everything works.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.gpu import exactness, fuse, kernels, memory, rates
from benchmarks.gpu.card import compute_capabilities
from benchmarks.gpu.cases import Case, Figures, Line, Options, console, run_case
from benchmarks.random_llama import SIZES
from capsfusion_tasks import BUNDLED_MODEL

PARTS: dict[str, Callable[[Options], list[Case]]] = {
    "kernels": kernels.cases,
    "exactness": exactness.cases,
    "rates": rates.cases,
    "memory": memory.cases,
    "fuse": fuse.cases,
}


def main() -> int:
    args = _parser().parse_args()
    # Turn SIGTERM into an exception, so that the process of the running measurement is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = time.monotonic()
    on_gpu = args.device.type == "cuda"
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="capsfusion-gpu-", dir=args.scratch) as scratch:
        options = Options(
            device=args.device,
            pairs=args.pairs,
            tokenizer=args.tokenizer,
            size=args.size or ("13B" if on_gpu else "tiny"),
            exact_rows=64 if on_gpu else 16,
            rows=args.rows or (3500 if on_gpu else 128),
            fuse_rows=args.fuse_rows or (3000 if on_gpu else 100),
            model=args.checkpoint or (Path(scratch) / "checkpoint" if on_gpu else BUNDLED_MODEL),
            scratch=Path(scratch),
            beams=args.beams,
            slots=args.slots or (None,),
        )
        if "fuse" in args.parts and not options.model.exists():
            _write_checkpoint(options)
            console.print(
                f"writing the checkpoint took {time.monotonic() - started:.0f} s; times below do not include this",
                style="dim",
            )
            started = time.monotonic()
        cases = [case for part in args.parts for case in PARTS[part](options)]
        if args.profile:
            cases += rates.profiles(options)
        found: dict[str, Figures] = {}
        for case in cases:
            lines += run_case(case, found)
            found |= {line.case: line.figures for line in lines}

    machine = _machine(args.device)
    console.rule(f"{time.monotonic() - started:.0f} s in all", align="left")
    print(f"{machine}\n\n{_markdown(lines)}")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "lines": [asdict(line) for line in lines]}, indent=1))
    return 0 if all(line.ok for line in lines) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "cuda" if compute_capabilities() else "cpu"
    parser.add_argument("--device", type=torch.device, default=default, help="cuda or cpu")
    parser.add_argument("--pairs", type=Path, help="file of pairs with fused captions (default: generated pairs)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=BUNDLED_MODEL / "tokenizer.model",
        help="sentencepiece file (default: the demo model's tokenizer.model)",
    )
    parser.add_argument("--size", choices=SIZES, help="size of the random model (default: 13B on a GPU, else tiny)")
    parser.add_argument(
        "--rows", type=int, help="rows to fuse in the benchmark's part `rates` (default: 3500 on a GPU, else 128)"
    )
    parser.add_argument(
        "--beams",
        type=int,
        nargs="+",
        default=[3, 1],
        metavar="N",
        help="run the part `rates` once for each number of beams (default: 3 1)",
    )
    parser.add_argument(
        "--slots",
        type=int,
        nargs="+",
        metavar="N",
        help="run the part `rates` once for each N, with at most N slots (default: as many as the engine chooses)",
    )
    parser.add_argument(
        "--fuse-rows", type=int, help="rows to fuse in the part fuse (default: 3000 on a GPU, else 100)"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="model for the part fuse (default: random on a GPU, else the demo model)"
    )
    # The part "memory" does not run by default: with it, the benchmark would take longer than seven minutes.
    usual = [part for part in PARTS if part != "memory"]
    parser.add_argument(
        "--parts",
        type=_parts,
        default=usual,
        help=f"parts to run, separated by commas, out of {','.join(PARTS)} (default: all but memory)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="also print the time of each kernel in a decode step and in a prefill"
    )
    parser.add_argument("--json", type=Path, help="write all measured values to this file, as JSON")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: TMPDIR)")
    return parser


def _parts(text: str) -> list[str]:
    parts = [part for part in text.split(",") if part]
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"unknown part {', '.join(sorted(unknown))}: choose among {', '.join(PARTS)}")
    return parts


def _write_checkpoint(options: Options) -> None:
    command = [sys.executable, "-m", "benchmarks.random_checkpoint", str(options.model), "--size", options.size]
    command += ["--tokenizer", str(options.tokenizer), "--device", str(options.device)]
    command += ["--pairs", str(options.pairs)] if options.pairs else []
    subprocess.run(command, check=False)  # not checked: if it fails, only the part fuse will fail


def _machine(device: torch.device) -> str:
    """The GPU's name, and the versions of its driver and of the libraries, in one line."""
    name = "one thread of a CPU"
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        name = answer.partition("\n")[0].replace(", ", ", driver ") or "GPU"
    versions = [f"{package} {version(package)}" for package in ("torch", "triton", "transformers")]
    return ", ".join([name, *versions, f"Python {platform.python_version()}"])


def _markdown(lines: Sequence[Line]) -> str:
    rows = [f"| {line.case} | {line.result} | {line.more} |" for line in lines]
    return "\n".join(["| measured | result | more |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    sys.exit(main())
