"""LLaMA's forward pass in plain torch: sizes from the checkpoint's config, attention left to who holds the cache."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.fusion.native.config import Sizes

_HEAD_MULTIPLE = (
    64  # LLaMA's vocabulary with [PAD] has 32,001 rows: an odd matrix, which GPUs multiply at half the speed
)


class Attention(Protocol):
    """Attends with queries [..., S, heads, D] over what it holds and the keys and values [..., S, kv_heads, D] of the
    same tokens, in layer number ``layer``. Returns [..., S, heads * D]."""

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor: ...


class Llama:
    """Weights and forward pass. Projections that read the same input are one matrix: fewer, larger products."""

    def __init__(self, config: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.eps: float = config.rms_norm_eps
        self.device, self.dtype = device, dtype

        hidden, inner = config.hidden_size, config.intermediate_size
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        padded = -(-config.vocab_size // _HEAD_MULTIPLE) * _HEAD_MULTIPLE
        self.embedding = torch.zeros(padded, hidden, device=device, dtype=dtype)  # [V, E]
        self.head = self.embedding if config.tie_word_embeddings else torch.zeros_like(self.embedding)  # [V, E]
        self.norm = empty(hidden)
        self.attention_norm = [empty(hidden) for _ in range(self.layers)]
        self.qkv = [empty(query + 2 * kv, hidden) for _ in range(self.layers)]
        self.out = [empty(hidden, query) for _ in range(self.layers)]
        self.mlp_norm = [empty(hidden) for _ in range(self.layers)]
        self.gate_up = [empty(2 * inner, hidden) for _ in range(self.layers)]
        self.down = [empty(hidden, inner) for _ in range(self.layers)]
        self.cos, self.sin = self._rotary_table(config)  # [positions, D] each

    def parameters(self) -> dict[str, Tensor]:
        """Where each tensor of a Hugging Face checkpoint belongs: its name there → a view of this model's weights."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        places = {"model.embed_tokens.weight": self.embedding[: self.vocab_size], "model.norm.weight": self.norm}
        if self.head is not self.embedding:
            places["lm_head.weight"] = self.head[: self.vocab_size]
        for i in range(self.layers):
            q, k, v = torch.split(self.qkv[i], [query, kv, kv])
            gate, up = self.gate_up[i].chunk(2)
            named = {
                "input_layernorm": self.attention_norm[i],
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": self.out[i],
                "post_attention_layernorm": self.mlp_norm[i],
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": self.down[i],
            }
            places |= {f"model.layers.{i}.{name}.weight": view for name, view in named.items()}
        return places

    def forward(self, ids: Tensor, positions: Tensor, attend: Attention) -> Tensor:
        """Hidden states [..., S, E] of token ids [..., S] that stand at ``positions`` [..., S]."""
        x = F.embedding(ids, self.embedding)  # [..., S, E]
        cos, sin = self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)  # [..., S, 1, D]
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        for i in range(self.layers):
            h = F.rms_norm(x, x.shape[-1:], self.attention_norm[i], self.eps)
            qkv = F.linear(h, self.qkv[i])
            q, k, v = torch.split(
                qkv.view(*qkv.shape[:-1], -1, self.head_dim), sizes, dim=-2
            )  # [..., S, heads or kv_heads, D]
            h = attend(i, _rotate(q, cos, sin), _rotate(k, cos, sin), v)
            x = x + F.linear(h, self.out[i])
            h = F.rms_norm(x, x.shape[-1:], self.mlp_norm[i], self.eps)
            gate, up = F.linear(h, self.gate_up[i]).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, self.down[i])
        return F.rms_norm(x, x.shape[-1:], self.norm, self.eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] of the token after each of ``hidden`` [..., E]; those of the head's padding are -inf."""
        logits = F.linear(hidden, self.head)
        logits[..., self.vocab_size :] = float("-inf")
        return logits

    def _rotary_table(self, config: Sizes) -> tuple[Tensor, Tensor]:
        rope = config.rope_parameters
        if rope["rope_type"] == "default":
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
            frequencies, scale = rope["rope_theta"] ** -exponents, 1.0  # [D / 2]
        else:
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config)
        angles = torch.outer(torch.arange(self.max_positions, dtype=torch.float32), frequencies)  # [positions, D / 2]
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = scale * angles.cos(), scale * angles.sin()
        return cos.to(self.device, self.dtype), sin.to(self.device, self.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in Hugging Face's layout: the halves of a head are the two parts of the rotation."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
