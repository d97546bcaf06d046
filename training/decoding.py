"""Greedy decoding with a key-value cache, used during training."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from training.llama import Attention, Backbone, Layer, rotate


@torch.no_grad()
def greedy(model: Backbone, prompts: Tensor, new_tokens: int, eos: int, dtype: torch.dtype) -> list[list[int]]:
    """Generated token ids for prompts of equal length [B, P]: at most `new_tokens` each, without the end token."""
    batch, length = prompts.shape
    layers = [cast(Layer, layer) for layer in model.layers]
    caches = [_Cache(layer.self_attn, batch, length + new_tokens) for layer in layers]
    out = torch.full((batch, new_tokens), eos, device=prompts.device)
    done = torch.zeros(batch, dtype=torch.bool, device=prompts.device)
    ids, start = prompts, 0
    with torch.autocast(prompts.device.type, dtype, enabled=dtype != torch.float32):
        for step in range(new_tokens):
            x = model.embed_tokens(ids).to(dtype)  # [B, S, hidden]
            cos, sin = (table[start : start + ids.shape[1]] for table in (model.cos, model.sin))
            for layer, cache in zip(layers, caches, strict=True):
                x = x + cache.attend(layer.input_layernorm(x), cos, sin, start)
                x = x + layer.mlp(layer.post_attention_layernorm(x))
            start += ids.shape[1]
            following = F.linear(model.norm(x[:, -1]), model.embed_tokens.weight).argmax(-1)
            out[:, step] = torch.where(done, eos, following)
            done |= following == eos
            if done.all():
                break
            ids = following[:, None]
    rows: list[list[int]] = out.tolist()
    return [row[: row.index(eos)] if eos in row else row for row in rows]


class _Cache:
    """Keys and values of all tokens so far, for one layer."""

    def __init__(self, attention: Attention, batch: int, length: int) -> None:
        self.attention = attention
        shape = batch, attention.heads, length, attention.head_dim
        device = attention.q_proj.weight.device
        self.keys, self.values = torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, start: int) -> Tensor:
        """Attention output for `x`: the whole prompt, or one token at position `start`."""
        attention, end = self.attention, start + x.shape[1]
        q, k, v = (
            f(x).view(*x.shape[:2], attention.heads, attention.head_dim).transpose(1, 2).float()
            for f in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        self.keys[:, :, start:end], self.values[:, :, start:end] = rotate(k, cos, sin), v
        mixed = F.scaled_dot_product_attention(
            rotate(q, cos, sin), self.keys[:, :, :end], self.values[:, :, :end], is_causal=start == 0
        )
        out: Tensor = attention.o_proj(mixed.to(x.dtype).transpose(1, 2).reshape(*x.shape))
        return out
