"""Counts the rejected captions that another beam's caption can replace. Checks that all other rows stay the same.

    python -m benchmarks.rescue [--pairs FILE] [--rows 500] [--examples 5] [--model DIR] [--device cpu] [--dtype …]

Fuses the pairs twice with the native engine and 3 beams. The first run keeps the best caption of each row. The second
run keeps the captions of all beams, and validation takes the best caption that it accepts. A rejected caption that is
replaced in this way counts as rescued. Exit code 1 if the caption or verdict of any other row differs between the two
runs. In bfloat16 and float8 such differences are possible, because a caption depends on the other rows of its batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.exactness import MAX_NEW_TOKENS, name_of, requests_of
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.engine import Beam, Completion, Request, StaticRequests
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.worker import DTYPES
from capsfusion_tasks.schemas import OTHER_BEAMS
from capsfusion_tasks.validation.beams import best_that_pass
from capsfusion_tasks.validation.validate import validate_table

BEAMS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=Path, help="file with the columns laion_2b and laion_coco (default: generated pairs)"
    )
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--examples", type=int, default=5, help="number of rescued captions to print")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="checkpoint (default: the demo model)")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    args = parser.parse_args()
    console = Console()
    torch.backends.cuda.enable_cudnn_sdp(False)  # use no cuDNN attention, as in the pipeline; fusion/node.py says why

    pairs = read_pairs(args.pairs, args.rows)
    tokenizer = LlamaTokenizer(args.model / "tokenizer.model")
    model = load_llama(args.model, args.device, DTYPES[args.dtype])
    fused, seconds = [], []
    for keep_beams in (False, True):
        engine = NativeEngine(
            model,
            num_beams=BEAMS,
            max_new_tokens=MAX_NEW_TOKENS,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            eos_ids=[tokenizer.eos_id],
            prefix=shared_prefix(tokenizer),
            keep_beams=keep_beams,
        )
        started = time.monotonic()
        fused.append(as_table(pairs, completed(engine, requests_of(pairs, tokenizer)), tokenizer))
        seconds.append(time.monotonic() - started)
    alone, rescued = validate_table(fused[0].drop_columns([OTHER_BEAMS.name])), best_that_pass(fused[1])
    console.print(
        f"{name_of(args.model)}, {len(pairs)} pairs, {args.dtype} on {args.device}:"
        f" {len(pairs) / seconds[0]:.1f} rows/s with one caption kept, {len(pairs) / seconds[1]:.1f} with {BEAMS}"
    )
    print_rescued(console, alone, rescued)
    print_examples(console, alone, rescued, args.examples)
    changed = other_changes(alone, rescued)
    console.print(f"{changed} rows that were not rescued differ between the two runs")
    return 1 if changed else 0


def completed(engine: NativeEngine, requests: list[Request]) -> list[Completion]:
    found = track(engine.generate(StaticRequests(requests)), f"keep_beams {engine.keep_beams}", total=len(requests))
    return sorted(found, key=lambda completion: completion.row)


def as_table(pairs: list[tuple[str, ...]], completions: list[Completion], tokenizer: LlamaTokenizer) -> pa.Table:
    """A table of pairs, their captions and the captions of other beams, with the columns that validation reads."""

    def caption(made: Completion | Beam) -> dict[str, Any]:
        text = tokenizer.decode(made.token_ids).strip()
        return {"capsfusion": text, "finish_reason": made.finish_reason, "caption_tokens": made.caption_tokens}

    def rows() -> Iterator[dict[str, Any]]:
        for (raw, synthetic), made in zip(pairs, completions, strict=True):
            others = [caption(beam) for beam in made.others]
            yield {"laion_2b": raw, "laion_coco": synthetic, **caption(made), OTHER_BEAMS.name: others}

    made = [(name, OTHER_BEAMS.type.value_type.field(name).type) for name in ("capsfusion", "finish_reason")]
    schema = [("laion_2b", pa.string()), ("laion_coco", pa.string()), *made, ("caption_tokens", pa.int32())]
    return pa.Table.from_pylist(list(rows()), pa.schema([*schema, OTHER_BEAMS]))


def print_rescued(console: Console, alone: pa.Table, rescued: pa.Table) -> None:
    """Print the numbers of rejected and of rescued captions, in total and for each reason."""
    before = alone["reasons"].to_pylist()
    rows = [row for row in rescued.select(["beam", "rescued_from", "flags"]).to_pylist() if row["rescued_from"]]
    rejected = sum(map(bool, before))
    console.print(
        f"{rejected} of {len(before)} captions are rejected ({rejected / len(before):.1%}); {len(rows)} of them are"
        f" rescued ({len(rows) / max(1, rejected):.0%}), counted by beam number:"
        f" {dict(sorted(Counter(row['beam'] for row in rows).items()))}; {rejected - len(rows)} stay rejected"
    )
    flagged = [bool(flags) for flags, reasons in zip(alone["flags"].to_pylist(), before, strict=True) if not reasons]
    console.print(
        f"flagged: {sum(bool(row['flags']) for row in rows) / max(1, len(rows)):.0%} of the rescued captions,"
        f" {sum(flagged) / max(1, len(flagged)):.0%} of the captions that needed no rescue"
    )
    found, saved = (Counter(r for rs in lists for r in rs) for lists in (before, (row["rescued_from"] for row in rows)))
    table = Table("reason", "rejected", "rescued", "share")
    for reason, count in found.most_common():
        table.add_row(reason, str(count), str(saved[reason]), f"{saved[reason] / count:.0%}")
    console.print(table)


def print_examples(console: Console, alone: pa.Table, rescued: pa.Table, most: int) -> None:
    """Print rescued captions, each with its raw, synthetic and rejected caption."""
    for before, after in zip(alone.to_pylist(), rescued.to_pylist(), strict=True):
        if after["rescued_from"] and most > 0:
            most -= 1
            texts = (after["laion_2b"], after["laion_coco"], before["capsfusion"], after["capsfusion"])
            for name, text in zip(("raw", "synthetic", ", ".join(after["rescued_from"]), "taken"), texts, strict=True):
                console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)
            console.print()


def other_changes(alone: pa.Table, rescued: pa.Table) -> int:
    """Count the rows that were not rescued, but whose caption or verdict differs between the two runs."""
    columns = alone.column_names
    kept = rescued["rescued_from"].is_null().to_pylist()
    both = zip(kept, alone.to_pylist(), rescued.select(columns).to_pylist(), strict=True)
    return sum(same and one != other for same, one, other in both)


if __name__ == "__main__":
    sys.exit(main())
