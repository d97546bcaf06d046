"""Computes how many rows fit on a card at once, in the same way as the engine. Needs no GPU.

    python -m benchmarks.slots [--size 13B] [--num-beams 3] [--cards 24 40 80 141]

A slot is a place for one row in the engine's batch. The longest row has the longest possible prompt and a caption of 80
tokens. The prompt begins with the 112 tokens that all prompts share. Slots share the pages of the KV cache (blocks of
32 tokens), because most rows are shorter than the longest row. The last column is the number of slots if each slot
reserved enough pages for the longest row. A GB has 10^9 bytes; cards have a little more than their nominal size.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import chain

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from benchmarks.device_rates import FLOAT8
from benchmarks.random_llama import SIZES
from capsfusion_tasks.fusion.native.cache import bytes_per_page
from capsfusion_tasks.fusion.native.engine import MAX_SLOTS, STEP_TOKENS
from capsfusion_tasks.fusion.native.float8 import Float8
from capsfusion_tasks.fusion.native.memory import Room, room
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.sizes import Sizes
from capsfusion_tasks.fusion.native.slots import slot_capacity
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS

GB = 10**9
CONTEXT = 6 * GB // 10  # bytes of GPU memory that CUDA's context takes
PAGE_TOKENS = 32  # a copy of triton_ops.PAGE_TOKENS, which cannot be imported without Triton
PREFIX_TOKENS = 112  # number of LLaMA tokens in the paper's prompt before the first caption
MAX_NEW_TOKENS = 80


@dataclass(frozen=True)
class Fit:
    """How many slots and pages of the KV cache fit on a card.

    ``weights``: bytes of the model's weights. ``room``: the numbers of slots and pages that fit besides the weights, or
    None if the model does not fit. ``pages_of_a_row``: number of pages that the longest row needs.
    """

    weights: int
    room: Room | None
    pages_of_a_row: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="13B")
    parser.add_argument("--num-beams", type=int, default=3)
    parser.add_argument("--cards", type=int, nargs="+", default=[24, 40, 80, 141], help="memory of each card, in GB")
    # The default was measured on an H200 with 341 slots of 3 beams. The engine logs these GB when it starts.
    parser.add_argument("--batch-gb", type=float, default=1.4, help="GB for decoding a batch, without keys and values")
    args = parser.parse_args()

    table = Table(title=f"{args.size}, {args.num_beams} beams, {args.batch_gb} GB for a batch")
    for heading in ("card", "dtype", "weights", "slots", "pages", "tokens", "slots of whole rows"):
        table.add_column(heading, justify="left" if heading == "dtype" else "right")
    config = LlamaConfig(**SIZES[args.size])
    for card in args.cards:
        for name, dtype in (("bfloat16", torch.bfloat16), ("float8", FLOAT8)):
            found = fit(config, dtype, card=card * GB, beams=args.num_beams, batch=int(args.batch_gb * GB))
            cells = ["does not fit", "", "", ""]
            if found.room:
                slots, pages = found.room.slots, found.room.pages
                cells = [f"{n:,}" for n in (slots, pages, pages * PAGE_TOKENS, pages // found.pages_of_a_row)]
            table.add_row(f"{card} GB", name, f"{found.weights / GB:.1f} GB", *cells)
    Console().print(table)


def fit(config: LlamaConfig, dtype: torch.dtype, *, card: int, beams: int, batch: int) -> Fit:
    """Compute how many slots and pages fit beside the model on a card of ``card`` bytes.

    Decoding a batch takes ``batch`` bytes in addition to the pages, which hold keys and values.
    """
    # On the device "meta", tensors have sizes but take no memory.
    model = Llama(Sizes.model_validate(config.to_dict()), torch.device("meta"), dtype)
    weights = weight_bytes(model)
    page = bytes_per_page(model, PAGE_TOKENS)
    per_slot = -(-slot_capacity(MAX_PROMPT_TOKENS - PREFIX_TOKENS, MAX_NEW_TOKENS, beams) // PAGE_TOKENS)
    free = card - CONTEXT - weights - bytes_per_page(model, PREFIX_TOKENS)
    most = min(MAX_SLOTS, STEP_TOKENS // beams)
    found = room(free=free, total=card, needed=batch, page=page, per_slot=per_slot, most_slots=most)
    fits = batch + (found.pages + 1) * page <= free
    return Fit(weights, found if fits else None, per_slot)


def weight_bytes(model: Llama) -> int:
    """Memory of the model's tensors. Tied weights count once."""
    tensors = [model.embedding, model.head, model.norm, *model.rotary, *model.attention_norm, *model.mlp_norm]
    for matrix in chain(model.qkv, model.out, model.gate_up, model.down):
        tensors += [matrix.values, matrix.scales] if isinstance(matrix, Float8) else [matrix]
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


if __name__ == "__main__":
    main()
