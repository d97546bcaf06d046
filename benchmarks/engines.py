"""How fast captions come out, as a ratio to the paper's way of running the same model in the same process.

    python benchmarks/engines.py [--model DIR] [--pairs FILE] [--rows 128] [--repeat 3]

The baseline is the released script's setting: batches of 4, every prompt padded to 256 tokens. Printed are the medians
of the repetitions, which take turns so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from capsfusion_tasks.caption_files import open_caption_file
from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.fusion.engine import Request
from capsfusion_tasks.fusion.identity import model_folder
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine
from capsfusion_tasks.settings import DEMO_MODEL

PAPER_BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO_MODEL), help="folder or hub id (default: the demo model)")
    parser.add_argument("--pairs", type=Path, help="file with laion_2b and laion_coco (default: made pairs)")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    folder = model_folder(args.model)
    tokenizer = LlamaTokenizer(folder / "tokenizer.model")
    prompts = [prompt_tokens(tokenizer, raw, synthetic) for raw, synthetic in _pairs(args.pairs, args.rows)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    engine = TransformersEngine(
        folder,
        device=device,
        dtype=dtype,
        num_beams=3,
        max_new_tokens=80,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        batch_size=args.batch_size,
    )

    def paper() -> int:
        tokens = 0
        for start in range(0, len(prompts), PAPER_BATCH):
            batch = [Request(row, prompt) for row, prompt in enumerate(prompts[start : start + PAPER_BATCH])]
            tokens += sum(c.caption_tokens for c in engine.generate_batch(batch, width=MAX_PROMPT_TOKENS))
        return tokens

    def ours() -> int:
        return sum(
            c.caption_tokens for c in engine.generate([Request(row, prompt) for row, prompt in enumerate(prompts)])
        )

    ways: dict[str, Callable[[], int]] = {
        f"the paper's script: batches of {PAPER_BATCH}, padded to {MAX_PROMPT_TOKENS}": paper,
        f"transformers engine: batches of {args.batch_size}, sorted by length": ours,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens: dict[str, int] = {}
    for _ in range(args.repeat):
        for name, way in ways.items():
            started = time.perf_counter()
            tokens[name] = way()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)

    table = Table(
        title=f"{len(prompts)} captions, 3 beams, {dtype}, {device.type}, median of {args.repeat}".replace("torch.", "")
    )
    for heading in ("way", "captions/s", "tokens/s", "ratio"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    baseline = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        table.add_row(name, f"{len(prompts) / median:.2f}", f"{tokens[name] / median:.0f}", f"{baseline / median:.2f}")
    Console().print(table)


def _pairs(file: Path | None, rows: int) -> list[tuple[str, str]]:
    if file is None:
        rng = random.Random(0)
        made = [make_pair(rng, "heldout") for _ in range(rows)]
        return [(pair.raw, pair.synthetic) for pair in made]
    tables = open_caption_file(file, ["laion_2b", "laion_coco"]).captions(rows)
    return [(row["laion_2b"], row["laion_coco"]) for table in islice(tables, 1) for row in table.to_pylist()]


if __name__ == "__main__":
    main()
