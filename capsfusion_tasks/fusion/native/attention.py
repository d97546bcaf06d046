"""The inputs of attention: the tokens, their slots (a slot is a row's part of the cache), and what each token sees.

All prompts begin with the same text, the prefix. There are two kinds of tokens. Tokens of new prompts see the prefix,
themselves and the earlier tokens of their own prompt. Newly generated tokens of beams see the prefix, their prompt and
their ancestors in the slot's tree of tokens. Both kinds attend only to the prefix and the pages of one slot.
``torch_ops`` and ``triton_ops`` implement attention for both.
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
    """T packed tokens: their ids, their positions in the text, and the places of their keys and values in the cache."""

    ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64, counted from the beginning of the prefix
    slots: Tensor  # [T] int64, the slot of each token
    places: Tensor  # [T] int64, the place of each token in its slot


@dataclass(frozen=True)
class Prompts:
    """R new prompts without the prefix, one after the other. No prompt is empty. Each begins at place 0 of its slot.

    Padding tokens may follow the last prompt. They belong to no prompt, and their attention is 0.
    """

    tokens: Tokens
    slots: Tensor  # [R] int64, the slot of each prompt
    starts: Tensor  # [R + 1] int64, index of each prompt's first token among the T tokens, then the last prompt's end
    lengths: list[int]  # [R], number of tokens of each prompt, on the CPU


@dataclass(frozen=True)
class Beams:
    """N slots with B beams each. Each beam has one new token: T = N * B."""

    tokens: Tokens
    slots: Tensor  # [N] int64
    used: Tensor  # [N] int64, number of tokens in each slot, including the new tokens
    # The tokens of a slot that each beam sees, including the beam's new token. Made by ``pack_seen``.
    seen: Tensor


def pack_prompts(
    prompts: Sequence[Sequence[int]], slots: Sequence[int], *, prefix: int, cache: KVCache, multiple: int = 1
) -> Prompts:
    """Pack one prompt per slot on the cache's device. Positions begin at ``prefix``, the number of the prefix's tokens.

    Adds padding tokens until the number of tokens is a multiple of ``multiple``.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])  # [R]
    starts = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))  # [R + 1]
    # Index of each token's prompt, [T].
    which = torch.arange(len(prompts)).repeat_interleave(lengths)
    places = torch.arange(len(which)) - starts[which]  # [T]
    ids = torch.tensor([token for prompt in prompts for token in prompt])
    own = torch.tensor(slots)  # [R]
    padding = -len(which) % multiple
    # Padding tokens use the last row of the page table. This row belongs to no slot, so padding is never read.
    no_slot = len(cache.table) - 1
    tokens = Tokens(
        *(
            F.pad(x, (0, padding), value=value).to(cache.table.device)
            for x, value in ((ids, 0), (places + prefix, 0), (own[which], no_slot), (places, 0))
        )
    )
    return Prompts(tokens, own.to(cache.table.device), starts.to(cache.table.device), lengths.tolist())


def over_prompts(model: Llama, cache: KVCache, prompts: Prompts) -> Attend:
    """The attention function for a pass over ``prompts``. It also stores the prompts' keys and values in ``cache``."""

    def attend(layer: int, qkv: Tensor) -> Tensor:
        queries = model.ops.rotate_and_store(qkv, model.rotary, cache, layer, prompts.tokens)
        return model.ops.prompt_attention(queries, cache, layer, prompts)

    return attend


def over_beams(model: Llama, cache: KVCache, beams: Beams) -> Attend:
    """The attention function for a step of ``beams``. It also stores the new tokens' keys and values in ``cache``."""

    def attend(layer: int, qkv: Tensor) -> Tensor:
        queries = model.ops.rotate_and_store(qkv, model.rotary, cache, layer, beams.tokens)
        return model.ops.beam_attention(queries, cache, layer, beams)

    return attend
