"""Keys and values: one read-only prefix for all rows, and a slot per row that its beams share.

A slot holds the row's prompt (without the prefix) and after it every token that any of its beams generated, in the
order of generation. Beams differ in *which* of these tokens they see: a mask says so, and when beam search drops one
beam for a copy of another, rows of the mask change places while keys and values stay where they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.fusion.native.model import Llama


class KVCache:
    """``slots`` rows of ``beams`` beams each, ``capacity`` tokens a slot, behind a prefix of P tokens.

    keys, values: [layers, slots, kv_heads, capacity, D]. visible: [slots, beams, capacity], what each beam sees.
    """

    def __init__(self, model: Llama, prefix: tuple[Tensor, Tensor], *, slots: int, beams: int, capacity: int) -> None:
        self.prefix_keys, self.prefix_values = prefix  # [layers, kv_heads, P, D] each
        shape = (model.layers, slots, model.kv_heads, capacity, model.head_dim)
        # Zeros, not whatever the memory held: a masked NaN would still be a NaN after the product with its weight of 0.
        self.keys = torch.zeros(shape, device=model.device, dtype=model.dtype)
        self.values = torch.zeros_like(self.keys)
        self.visible = torch.zeros(slots, beams, capacity, device=model.device, dtype=torch.bool)

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy the slots ``source`` [K] over the slots ``target`` [K]."""
        for tensor in (self.keys, self.values):
            tensor[:, target] = tensor[:, source]
        self.visible[target] = self.visible[source]


def bytes_per_slot(model: Llama, capacity: int) -> int:
    """Memory that one slot of ``capacity`` tokens takes."""
    element = torch.finfo(model.dtype).bits // 8
    return 2 * model.layers * model.kv_heads * model.head_dim * capacity * element


class PrefixAttention:
    """Causal attention over the prefix alone, keeping its keys and values."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:  # noqa: ARG002
        q, k, v = (x.transpose(-3, -2) for x in (queries, keys, values))  # [1, heads, P, D]
        self._kept.append((k[0], v[0]))
        grouped = q.shape[-3] != k.shape[-3]
        return _heads_last(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped))

    def kept(self) -> tuple[Tensor, Tensor]:
        """Keys and values, [layers, kv_heads, P, D] each."""
        keys, values = zip(*self._kept, strict=True)
        return torch.stack(keys), torch.stack(values)


class PromptAttention:
    """Attention of R new prompts, padded on the right to S tokens: over the prefix, and causally over themselves.

    Writes their keys and values into the slots ``slots`` [R]. The padding comes after a row's own tokens: none of them
    sees it, and generated tokens overwrite it.
    """

    def __init__(self, cache: KVCache, slots: Tensor, length: int) -> None:
        self._cache, self._slots = cache, slots
        prefix = cache.prefix_keys.shape[2]
        own = torch.ones(length, length, device=slots.device, dtype=torch.bool).tril()
        self._mask = torch.cat((own.new_ones(length, prefix), own), dim=1)  # [S, P + S]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        cache = self._cache
        q, k, v = (x.transpose(1, 2) for x in (queries, keys, values))  # [R, heads, S, D]
        cache.keys[layer, self._slots, :, : k.shape[2]] = k
        cache.values[layer, self._slots, :, : k.shape[2]] = v
        k = torch.cat((cache.prefix_keys[layer].expand(len(k), -1, -1, -1), k), dim=2)  # [R, kv_heads, P + S, D]
        v = torch.cat((cache.prefix_values[layer].expand(len(v), -1, -1, -1), v), dim=2)
        grouped = q.shape[1] != k.shape[1]  # where it is not needed, asking for it rules out the fast kernels
        return _heads_last(F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask, enable_gqa=grouped))


class BeamAttention:
    """Attention of one new token for each beam of the first N slots, over the prefix and what it sees of its slot.

    The prefix is one product for all rows; the slot's keys are read once for all of its beams. Both parts share one
    softmax. Writes the new tokens' keys and values at ``at`` [N, B]; ``used`` is how many tokens of a slot to look at.
    """

    def __init__(self, cache: KVCache, at: Tensor, used: int) -> None:
        self._cache, self._at, self._used = cache, at, used
        self._rows = torch.arange(len(at), device=at.device)[:, None]  # [N, 1]
        self._hidden = ~cache.visible[: len(at), None, :, None, :used]  # [N, 1, B, 1, used]

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        cache, used = self._cache, self._used
        n, b, heads, d = queries.shape
        cache.keys[layer, self._rows, :, self._at] = keys  # [N, B, kv_heads, D]
        cache.values[layer, self._rows, :, self._at] = values
        own_keys, own_values = cache.keys[layer, :n, :, :used], cache.values[layer, :n, :, :used]
        prefix_keys, prefix_values = cache.prefix_keys[layer], cache.prefix_values[layer]  # [kv_heads, P, D]
        kv_heads, p, _ = prefix_keys.shape
        group = heads // kv_heads  # query heads that share a key head

        q = (queries * d**-0.5).view(n, b, kv_heads, group, d).permute(2, 0, 1, 3, 4).reshape(kv_heads, -1, d)
        to_prefix = (q @ prefix_keys.mT).view(kv_heads, n, b * group, p).transpose(0, 1)  # [N, kv_heads, B*group, P]
        q = q.view(kv_heads, n, b * group, d).transpose(0, 1)  # [N, kv_heads, B*group, D]
        to_own = (q @ own_keys.mT).view(n, kv_heads, b, group, used)
        to_own = to_own.masked_fill(self._hidden, float("-inf")).view(n, kv_heads, b * group, used)
        weights = torch.cat((to_prefix, to_own), dim=-1).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
        from_prefix, from_own = weights[..., :p], weights[..., p:]
        mixed = from_own @ own_values  # [N, kv_heads, B*group, D]
        from_prefix = from_prefix.transpose(0, 1).reshape(kv_heads, -1, p) @ prefix_values  # [kv_heads, N*B*group, D]
        mixed = mixed + from_prefix.view(kv_heads, n, b * group, d).transpose(0, 1)
        return mixed.view(n, kv_heads, b, group, d).permute(0, 2, 1, 3, 4).reshape(n, b, heads * d)


def _heads_last(x: Tensor) -> Tensor:
    """[..., heads, S, D] → [..., S, heads * D]."""
    return x.transpose(-3, -2).flatten(-2)
