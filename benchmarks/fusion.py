"""Measures the captions per second of three fusion methods on the same rows and weights.

    python -m benchmarks.fusion [--pairs FILE] [--tokenizer FILE] [--rows 96] [--repeat 3] [--num-beams 3]

- paper, the baseline: the loop of the CapsFusion paper's inference script. It uses transformers, with batches of 4 in
  the file's order and every prompt padded to 256 tokens.
- transformers, with the best settings: batches of 32 rows sorted by length. The keys and values of the text with which
  all prompts begin are computed once for all rows.
- native: this project's engine.

The weights are random. On a GPU, the model is a 13B LLaMA in bfloat16. On a CPU, it is a small LLaMA in float32. The
small model's speed ratios between methods can differ from the 13B's, because the vocabulary head takes a quarter of the
small model's arithmetic, but only 1% of the 13B's. Random weights never end a caption. So each row ends after a fixed
number of tokens: the length of its published caption in CapsFusion's data.

The column "times minimum" is the FLOPs of each method divided by the minimum FLOPs. For the minimum, each prompt token
after the shared beginning is computed once, and each caption token once per beam. The native engine counts as 1.0 by
definition: the FLOPs for its padding and idle slots are left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from benchmarks import arithmetic
from benchmarks.baselines import PaperLoop, PrefixedTransformers
from benchmarks.device_rates import measure_rates
from benchmarks.random_llama import SIZES, as_transformers, random_llama
from benchmarks.workload import read_workload
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.engine import Engine, Request, StaticRequests
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

MAX_NEW_TOKENS = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, help="file of pairs with fused captions (default: generated pairs)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=BUNDLED_MODEL / "tokenizer.model",
        help="sentencepiece file (default: the demo model's tokenizer.model)",
    )
    parser.add_argument("--rows", type=int, default=96, help='rows to fuse with "paper" and with "transformers"')
    parser.add_argument("--native-rows", type=int, help='rows to fuse with "native" (default: as many as --rows)')
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each method; medians are printed")
    parser.add_argument("--num-beams", type=int, default=3)
    parser.add_argument(
        "--slots",
        type=int,
        nargs="+",
        default=[None],
        help="number of rows that the native engine decodes at once; give several numbers to compare them"
        " (default: automatic)",
    )
    parser.add_argument("--size", choices=SIZES, help="size of the random model (default: 13B on a GPU, else small)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: torch's default)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.backends.cuda.enable_cudnn_sdp(False)  # use no cuDNN attention, as in the pipeline; fusion/node.py says why
    tokenizer = LlamaTokenizer(args.tokenizer)
    prefix = shared_prefix(tokenizer)
    config = LlamaConfig(**SIZES[args.size or ("13B" if device.type == "cuda" else "small")])
    requests = read_workload(args.pairs, args.rows, tokenizer, MAX_NEW_TOKENS)
    native_requests = read_workload(args.pairs, args.native_rows or args.rows, tokenizer, MAX_NEW_TOKENS)

    model = random_llama(config, device, dtype)
    reference = as_transformers(model, config)
    no_token = config.vocab_size
    settings = {"num_beams": args.num_beams, "max_new_tokens": MAX_NEW_TOKENS, "eos_ids": [no_token]}
    paper = PaperLoop(reference, pad_id=0, **settings)
    best = PrefixedTransformers(reference, prefix, pad_id=0, batch_size=32, **settings)
    cost = arithmetic.Cost(config, prefix=len(prefix), beams=args.num_beams)

    def native(slots: int | None) -> NativeEngine:
        return NativeEngine(model, max_prompt_tokens=MAX_PROMPT_TOKENS, prefix=prefix, batch_size=slots, **settings)

    methods: list[tuple[str, Sequence[Request], Callable[[], Engine], float]] = [
        ("paper", requests, lambda: paper, cost.paper(requests)),
        ("transformers", requests, lambda: best, cost.transformers(requests, best.batch_size)),
    ]
    at_once = {"paper": paper.batch_size, "transformers": best.batch_size}
    for slots in [native(slots).batch_size for slots in args.slots]:
        name = f"native, {slots} slots"
        methods.append((name, native_requests, partial(native, slots), cost.needed(native_requests)))
        at_once[name] = slots
    runs = {name: Runs(name, rows, make, flops) for name, rows, make, flops in methods}
    for _ in range(args.repeat):  # alternate the methods, so that other load on the machine slows all of them equally
        for run in runs.values():
            run.once(device)

    counted = f"{args.rows} rows" + (f" (native: {args.native_rows})" if args.native_rows else "")
    title = f"{counted}, {args.num_beams} beams, {str(dtype).removeprefix('torch.')}, {device_name(device)}"
    table = Table(title=title, caption=f"torch {torch.__version__}, transformers {transformers.__version__}")
    headings = ("method", "rows/s", "tokens/s", "times paper", "GFLOP/row", "times minimum", "GFLOP/s", "peak GB")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    baseline = runs["paper"].rows_per_second
    for run in runs.values():
        per_row = run.flops / len(run.rows) / 1e9
        needed = cost.needed(run.rows) / len(run.rows) / 1e9
        table.add_row(
            run.name,
            f"{run.rows_per_second:.2f}",
            f"{run.tokens / run.seconds:.0f}",
            f"{run.rows_per_second / baseline:.2f}",
            f"{per_row:.1f}",
            f"{per_row / needed:.1f}",
            f"{per_row * run.rows_per_second:.0f}",
            f"{run.peak_bytes / 1e9:.1f}" if run.peak_bytes else "",
        )
    Console(width=120).print(table)
    if device.type == "cuda":
        reached = {run.name: (at_once[run.name], run.rows_per_second) for run in runs.values()}
        arithmetic.print_limit(cost, native_requests, measure_rates(device, dtype), reached)


class Runs:
    """Runs one fusion method several times, and keeps the durations."""

    def __init__(self, name: str, rows: Sequence[Request], make: Callable[[], Engine], flops: float) -> None:
        self.name, self.rows, self.flops = name, rows, flops
        self._make, self._times = make, list[float]()
        self.tokens = self.peak_bytes = 0

    def once(self, device: torch.device) -> None:
        """Fuse all rows after a warm-up. Deletes the engine afterwards, because two engines would not fit on a GPU."""
        engine = self._make()
        list(engine.generate(StaticRequests(self.rows[:8])))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        # No need to synchronize with the device afterwards, because the engine returns token ids that are on the host.
        completions = list(engine.generate(StaticRequests(self.rows)))
        self._times.append(time.perf_counter() - started)
        Console(stderr=True).print(f"{self.name}: {len(self.rows)} rows in {self._times[-1]:.0f} s", highlight=False)
        self.tokens = sum(completion.caption_tokens for completion in completions)
        self.peak_bytes = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
        expected = {request.row: request.max_new_tokens for request in self.rows}
        if {c.row: c.caption_tokens for c in completions} != expected:
            raise RuntimeError(f"each caption of {self.name} must have max_new_tokens tokens, but some do not")

    @property
    def seconds(self) -> float:
        return statistics.median(self._times)

    @property
    def rows_per_second(self) -> float:
        return len(self.rows) / self.seconds


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
