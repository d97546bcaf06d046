"""Tests whether GPU memory suffices if all slots have the longest rows, on this card and on simulated smaller cards.

A slot decodes one row at a time. The longest row has the longest prompt and the longest caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from benchmarks.device_rates import FLOAT8
from benchmarks.gpu.cases import Case, Figures, Line, Options, name_of
from benchmarks.gpu.rates import MAX_NEW_TOKENS, start_engine
from capsfusion_tasks.fusion.engine import Request, StaticRequests, complete_all
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

_CONTEXT = 512 << 20  # bytes of GPU memory that CUDA's context takes


def cases(options: Options) -> list[Case]:
    """Cases for this card and for each common smaller card on which a 13B model fits. Empty without a GPU."""
    if options.device.type != "cuda":
        return []
    cards: list[tuple[int | None, torch.dtype]] = [(None, torch.bfloat16), (80, torch.bfloat16), (40, torch.bfloat16)]
    if FLOAT8 in options.dtypes():
        cards.append((24, FLOAT8))
    return [
        Case(f"memory, {f'{card} GiB' if card else 'this card'}, {name_of(dtype)}", partial(fill, options, card, dtype))
        for card, dtype in cards
    ]


def fill(options: Options, card: int | None, dtype: torch.dtype, _: Mapping[str, Figures]) -> Sequence[Line]:
    """Fill each slot with the longest prompt and caption, with 3 beams.

    Simulates a card of ``card`` GiB by first allocating all memory beyond that size.
    """
    device = options.device
    tokenizer = LlamaTokenizer(options.tokenizer)
    prefix = shared_prefix(tokenizer)
    free, _total = torch.cuda.mem_get_info(device)
    beyond = free - (card << 30) + _CONTEXT if card else 0
    if beyond < 0:
        return []
    taken = torch.empty(beyond, dtype=torch.uint8, device=device)
    prompt = [*prefix, *[tokenizer.eos_id + 1] * (MAX_PROMPT_TOKENS - len(prefix))]

    engine, _seconds = start_engine(options, tokenizer, dtype, 3, [Request(0, prompt)])
    slots = engine.batch_size
    requests = [Request(row, prompt, MAX_NEW_TOKENS) for row in range(slots)]
    completions = list(complete_all(engine, StaticRequests(requests)))
    failed = [c.finish_reason for c in completions if c.finish_reason.startswith("error")]
    peak = torch.cuda.max_memory_reserved(device) - len(taken)
    left, _total = torch.cuda.mem_get_info(device)
    ok = not failed and len(completions) == slots == engine.batch_size
    more = f"longest rows in all of them: peak {peak / 1e9:.1f} GB, {left / 1e9:.1f} GB left"
    if not ok:
        more += f"; {len(failed)} rows failed, {engine.batch_size} slots at the end"
    figures: Figures = {"slots": slots, "slots_at_the_end": engine.batch_size, "peak_bytes": peak, "left_bytes": left}
    case = f"memory, {f'{card} GiB' if card else 'this card'}, {name_of(dtype)}"
    return [Line(case, f"{slots} slots", more, figures, ok)]
