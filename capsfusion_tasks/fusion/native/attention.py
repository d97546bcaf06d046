"""What attention is asked for: which tokens, in which slots, and what each of them sees.

Two kinds of tokens attend. Those of new prompts see the prefix and, causally, their own prompt. Those that beams have
just generated see the prefix, their prompt and what leads to them in their slot's tree of tokens. Either attend over
the prefix and the pages of one slot, and nothing else: ``torch_ops`` and ``triton_ops`` both do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.fusion.native.cache import KVCache
from capsfusion_tasks.fusion.native.model import Attend, Llama


@dataclass(frozen=True)
class Tokens:
    """T tokens, packed: which they are, where each stands in its text, and where its keys and values go."""

    ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, the prefix counted
    slots: Tensor  # [T] int64
    places: Tensor  # [T] int64, in the slot


@dataclass(frozen=True)
class Prompts:
    """R new prompts, one after the other, none of them empty. They begin at place 0 of their slots.

    Behind the last prompt there may be padding: tokens of no prompt, whose attention is 0.
    """

    tokens: Tokens
    slots: Tensor  # [R] int64
    starts: Tensor  # [R + 1] int64, where each begins among the T tokens, and where the last ends
    lengths: list[int]  # on the host


@dataclass(frozen=True)
class Beams:
    """One new token for each of B beams of N slots: T = N * B."""

    tokens: Tokens
    slots: Tensor  # [N] int64
    used: Tensor  # [N] int64, tokens in each slot, the new ones counted
    seen: Tensor  # what each beam sees of its slot, its own new token included; made by ``pack_seen``


def pack_prompts(
    prompts: Sequence[Sequence[int]], slots: Sequence[int], *, prefix: int, cache: KVCache, multiple: int = 1
) -> Prompts:
    """``prompts`` for ``slots``, behind ``prefix`` tokens, on the cache's device.

    Padded to a ``multiple`` of tokens.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])  # [R]
    starts = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))  # [R + 1]
    which = torch.arange(len(prompts)).repeat_interleave(lengths)  # [T]
    places = torch.arange(len(which)) - starts[which]  # [T]
    ids = torch.tensor([token for prompt in prompts for token in prompt])
    own = torch.tensor(slots)  # [R]
    padding = -len(which) % multiple
    # Padding goes to the row of the page table that belongs to no slot: nobody reads what it writes.
    of_nobody = len(cache.table) - 1
    tokens = Tokens(
        *(
            F.pad(x, (0, padding), value=value).to(cache.table.device)
            for x, value in ((ids, 0), (places + prefix, 0), (own[which], of_nobody), (places, 0))
        )
    )
    return Prompts(tokens, own.to(cache.table.device), starts.to(cache.table.device), lengths.tolist())


def over_prompts(model: Llama, cache: KVCache, prompts: Prompts) -> Attend:
    """Attention for a forward pass over ``prompts``; their keys and values are kept."""

    def attend(layer: int, qkv: Tensor) -> Tensor:
        queries = model.ops.rotate_and_store(qkv, model.rotary, cache, layer, prompts.tokens)
        return model.ops.prompt_attention(queries, cache, layer, prompts)

    return attend


def over_beams(model: Llama, cache: KVCache, beams: Beams) -> Attend:
    """Attention for a decode step of ``beams``; the new tokens' keys and values are kept."""

    def attend(layer: int, qkv: Tensor) -> Tensor:
        queries = model.ops.rotate_and_store(qkv, model.rotary, cache, layer, beams.tokens)
        return model.ops.beam_attention(queries, cache, layer, beams)

    return attend
