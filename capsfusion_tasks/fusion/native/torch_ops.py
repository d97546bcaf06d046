"""The native engine's operations in plain torch. They run on CPUs, and tests compare the Triton kernels with them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.fusion.native import float8
from capsfusion_tasks.fusion.native.attention import Beams, Prompts, Tokens
from capsfusion_tasks.fusion.native.cache import KVCache
from capsfusion_tasks.fusion.native.float8 import Float8

# None: a slot is one page, so its keys are contiguous in memory, and a matrix product can read them in place.
PAGE_TOKENS: int | None = None
PREFILL_MULTIPLE = 1

quantise = float8.quantise


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, *, quantise: bool) -> Tensor | Float8:
    """Add ``delta`` to the residual ``x`` [T, E], in place, and return the RMS norm of the sum."""
    if delta is not None:
        x += delta
    h = F.rms_norm(x, x.shape[-1:], weight, eps)
    return float8.quantise(h) if quantise else h


def silu_mul(gate_up: Tensor, *, quantise: bool) -> Tensor | Float8:
    """SiLU of the first half of ``gate_up`` [T, 2 * I], times the second half: [T, I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    h = F.silu(gate) * up
    return float8.quantise(h) if quantise else h


def rotate_and_store(qkv: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache, layer: int, tokens: Tokens) -> Tensor:
    """Apply the rotary position embedding to queries and keys in ``qkv`` [T, (heads + 2 * kv_heads) * D].

    Stores keys and values in their places in the cache. Returns the queries [T, heads, D].
    """
    _, _, kv_heads, page_tokens, d = cache.keys.shape
    q, k, v = torch.split(qkv.view(len(qkv), -1, d), [qkv.shape[1] // d - 2 * kv_heads, kv_heads, kv_heads], dim=1)
    cos, sin = (table[tokens.positions][:, None] for table in rotary)  # [T, 1, D]
    page = cache.table[tokens.slots, tokens.places // page_tokens]  # [T]
    cache.keys[layer, page, :, tokens.places % page_tokens] = _rotate(k, cos, sin)
    cache.values[layer, page, :, tokens.places % page_tokens] = v
    return _rotate(q, cos, sin)


def prompt_attention(queries: Tensor, cache: KVCache, layer: int, prompts: Prompts) -> Tensor:
    """Causal attention of the T tokens of several prompts: each token attends to the prefix and to its own prompt.

    ``queries`` [T, heads, D] → [T, heads * D].
    """
    p, longest = cache.prefix_keys.shape[2], max(prompts.lengths)
    # Token i sees the prefix and the first i + 1 tokens of its prompt.
    mask = queries.new_ones(longest, p + longest, dtype=torch.bool).tril(p)
    # Set enable_gqa only if query heads share key heads, because with this option torch does not use its fast kernels.
    grouped = queries.shape[1] != cache.keys.shape[2]
    attended = []
    for q, slot, length in zip(torch.split(queries, prompts.lengths), prompts.slots, prompts.lengths, strict=True):
        keys, values = (_of_slots(x, slot[None], cache, length)[0] for x in (cache.keys[layer], cache.values[layer]))
        keys = torch.cat((cache.prefix_keys[layer], keys), dim=1)  # [kv_heads, P + length, D]
        values = torch.cat((cache.prefix_values[layer], values), dim=1)
        seen = mask[:length, : p + length]
        x = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None], keys[None], values[None], attn_mask=seen, enable_gqa=grouped
        )
        attended.append(x[0].transpose(0, 1).flatten(1))  # [length, heads * D]
    return torch.cat(attended)


def pack_seen(visible: Tensor, cache: KVCache) -> Tensor:  # noqa: ARG001
    """Convert ``visible`` [N, B, capacity] for ``beam_attention``. In plain torch, no conversion is needed."""
    return visible


def beam_attention(queries: Tensor, cache: KVCache, layer: int, beams: Beams) -> Tensor:
    """Attention of each beam's new token to the prefix and to the places that the beam sees in its slot.

    ``queries`` [N * B, heads, D] → [N * B, heads * D].

    Attention to the prefix is one product for all rows. A slot's keys are read once for all of its beams. One
    softmax covers the scores of prefix and slot.
    """
    n, b, _ = beams.seen.shape
    _, heads, d = queries.shape
    prefix_keys, prefix_values = cache.prefix_keys[layer], cache.prefix_values[layer]  # [kv_heads, P, D]
    kv_heads, p, _ = prefix_keys.shape
    group = heads // kv_heads  # query heads that share a key head
    used = int(beams.used.max())

    q = (queries * d**-0.5).view(n, b, kv_heads, group, d).permute(2, 0, 1, 3, 4)  # [kv_heads, N, B, group, D]
    to_prefix = (q.reshape(kv_heads, n * b * group, d) @ prefix_keys.mT).view(kv_heads, n, b * group, p).transpose(0, 1)

    # From here on, the batch's rows are in the order of their pages, so that keys can be read in place, without a copy.
    at, keys, values = _rows_with(cache, layer, beams.slots, used)  # [N]; [M, kv_heads, used, D] each
    m = len(keys)
    own_q = q.new_zeros(m, kv_heads, b * group, d)
    own_q[at] = q.transpose(0, 1).reshape(n, kv_heads, b * group, d)
    scores = q.new_zeros(m, kv_heads, b * group, p)
    scores[at] = to_prefix
    hidden = beams.seen.new_zeros(m, b, used)
    hidden[at] = ~beams.seen[..., :used]
    own = (own_q @ keys.mT).view(m, kv_heads, b, group, used)
    own = own.masked_fill(hidden[:, None, :, None], float("-inf")).view(m, kv_heads, b * group, used)
    weights = torch.cat((scores, own), dim=-1).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    mixed = (weights[..., p:] @ values)[at]  # [N, kv_heads, B * group, D]
    from_prefix = weights[at, ..., :p].transpose(0, 1).reshape(kv_heads, n * b * group, p) @ prefix_values
    mixed = mixed + from_prefix.view(kv_heads, n, b * group, d).transpose(0, 1)
    return mixed.view(n, kv_heads, b, group, d).transpose(1, 2).reshape(n * b, heads * d)


def _rows_with(cache: KVCache, layer: int, slots: Tensor, used: int) -> tuple[Tensor, Tensor, Tensor]:
    """Read keys and values of ``slots`` [N]. Returns an index [N], and keys and values, [M, kv_heads, used, D] each.

    The index says which of the M entries belongs to each slot: ``keys[index[n]]`` are the keys of ``slots[n]``.

    If each slot is one page, and more than half of the first M pages are needed, keys and values are views of these M
    pages. Otherwise, they are copies that contain only ``slots``.
    """
    keys, values = cache.keys[layer], cache.values[layer]  # [pages, kv_heads, page_tokens, D]
    pages = cache.table[slots, 0].long()
    last = int(pages.max()) + 1
    if cache.table.shape[1] == 1 and 2 * len(slots) > last:
        return pages, keys[:last, :, :used], values[:last, :, :used]
    at = torch.arange(len(slots), device=slots.device)
    return at, _of_slots(keys, slots, cache, used), _of_slots(values, slots, cache, used)


def _of_slots(pages: Tensor, slots: Tensor, cache: KVCache, used: int) -> Tensor:
    """Copy the keys (or values) of the first ``used`` tokens of each of ``slots`` [N]: [N, kv_heads, used, D].

    ``pages`` are the keys (or values) of a layer, [pages, kv_heads, page_tokens, D].
    """
    wanted = cache.table[slots, : -(-used // pages.shape[2])].long()  # [N, J]
    return pages[wanted].transpose(1, 2).flatten(2, 3)[:, :, :used]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in Hugging Face's layout, which rotates a head's first half with its second half."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
