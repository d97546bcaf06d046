"""The forward pass of LLaMA and similar models over a flat list of tokens. The caller supplies the attention function.

The T tokens are those of several prompts, one prompt after the other, or the new tokens of all beams. The result has
one hidden state per token. ``torch_ops`` (for CPUs) and ``triton_ops`` (for CUDA) have the operations that depend on
the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.fusion.native import float8
from capsfusion_tasks.fusion.native.float8 import Float8
from capsfusion_tasks.fusion.native.sizes import Sizes
from capsfusion_tasks.fusion.tensors import EMBEDDING, HEAD

if TYPE_CHECKING:
    from capsfusion_tasks.fusion.native.attention import Beams, Prompts, Tokens
    from capsfusion_tasks.fusion.native.cache import KVCache

# Embedding and vocabulary head have one row per token of the vocabulary. The number of rows is padded to a multiple of
# this number: LLaMA's vocabulary with [PAD] has 32,001 tokens, and GPUs multiply a matrix with this odd number of rows
# at half the speed.
_HEAD_MULTIPLE = 64
# Maximum number of rows of the rotary table, which has one row per position. A prompt with its caption needs
# little more than a thousand positions. A table for the ten million positions that some configs allow would take
# gigabytes.
_MOST_POSITIONS = 1 << 16

Matrix = Tensor | Float8
# Attention of one layer. Takes the layer's number and qkv [T, (heads + 2 * kv_heads) * D], where D is the size of a
# head. Stores the keys and values of qkv in the cache, and returns the attended values [T, heads * D].
Attend = Callable[[int, Tensor], Tensor]


class Ops(Protocol):
    """All operations of the forward pass except matrix products.

    ``torch_ops`` is the reference, and ``triton_ops`` the fast version.
    """

    PAGE_TOKENS: int | None  # number of tokens in a page of keys and values; None: a slot is one page
    PREFILL_MULTIPLE: int  # the prompts of a prefill are padded to a multiple of this number of tokens

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, *, quantise: bool) -> Matrix: ...

    def silu_mul(self, gate_up: Tensor, *, quantise: bool) -> Matrix: ...

    def quantise(self, x: Tensor) -> Float8: ...

    def rotate_and_store(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache, layer: int, tokens: Tokens
    ) -> Tensor: ...

    def prompt_attention(self, queries: Tensor, cache: KVCache, layer: int, prompts: Prompts) -> Tensor: ...

    def pack_seen(self, visible: Tensor, cache: KVCache) -> Tensor: ...

    def beam_attention(self, queries: Tensor, cache: KVCache, layer: int, beams: Beams) -> Tensor: ...


class Place(Protocol):
    """The destination of a checkpoint's tensor: a view of the model's weights, which may be quantised."""

    @property
    def shape(self) -> torch.Size: ...

    def copy_(self, source: Tensor) -> object: ...


class Llama:
    """Weights and forward pass of a model.

    Projections of the same input (such as queries, keys and values) are one matrix, so that products are fewer and
    larger.

    The model families in ``sizes.py`` differ in two parts only: the biases of attention's projections, and the norms of
    query heads and key heads. For a family without such biases, the lists ``qkv_bias`` and ``out_bias`` are empty.
    Without such norms, the lists ``query_norm`` and ``key_norm`` are empty.

    With ``dtype`` float8_e4m3fn, the layers' matrices are float8. In this case, embedding, head, norms, activations
    between products, and the cache are bfloat16, and the attribute ``dtype`` is bfloat16, too. ``tied``: whether
    embedding and head are one matrix. None: the config decides.
    """

    def __init__(self, config: Sizes, device: torch.device, dtype: torch.dtype, *, tied: bool | None = None) -> None:
        self.sizes = config
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self.head_dim: int = config.head_dim
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = min(config.max_position_embeddings, _MOST_POSITIONS)
        self.eps: float = config.rms_norm_eps
        self.float8 = dtype == float8.DTYPE
        self.device, self.dtype = device, torch.bfloat16 if self.float8 else dtype
        self.ops = _ops(device)

        hidden, inner = config.hidden_size, config.intermediate_size
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=self.dtype)

        def matrix(rows: int, columns: int) -> Matrix:
            return Float8.weight(rows, columns, device) if self.float8 else empty(rows, columns)

        padded = -(-config.vocab_size // _HEAD_MULTIPLE) * _HEAD_MULTIPLE
        self.embedding = torch.zeros(padded, hidden, device=device, dtype=self.dtype)  # [V, E]
        self.tied = config.tie_word_embeddings if tied is None else tied
        self.head = self.embedding if self.tied else torch.zeros_like(self.embedding)  # [V, E]
        self.norm = empty(hidden)
        self.attention_norm = [empty(hidden) for _ in range(self.layers)]
        self.qkv = [matrix(query + 2 * kv, hidden) for _ in range(self.layers)]
        self.qkv_bias = [empty(query + 2 * kv) for _ in range(self.layers * config.qkv_bias)]
        self.query_norm = [empty(self.head_dim) for _ in range(self.layers * config.QK_NORM)]
        self.key_norm = [empty(self.head_dim) for _ in range(self.layers * config.QK_NORM)]
        self.out = [matrix(hidden, query) for _ in range(self.layers)]
        self.out_bias = [empty(hidden) for _ in range(self.layers * config.out_bias)]
        self.mlp_norm = [empty(hidden) for _ in range(self.layers)]
        self.gate_up = [matrix(2 * inner, hidden) for _ in range(self.layers)]
        self.down = [matrix(hidden, inner) for _ in range(self.layers)]
        self.rotary = self._rotary_table(config)  # cosines and sines, [positions, D] each

    def parameters(self) -> dict[str, Place]:
        """The place of each tensor in this model, by the tensor's name in a Hugging Face checkpoint.

        If head and embedding are tied, both names have the same place, and a checkpoint needs only one of the two.
        """
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        places: dict[str, Place] = {
            EMBEDDING: self.embedding[: self.vocab_size],
            "model.norm.weight": self.norm,
            HEAD: self.head[: self.vocab_size],
        }
        for i in range(self.layers):
            q, k, v = self.qkv[i].split([query, kv, kv])
            gate, up = self.gate_up[i].split([self.gate_up[i].shape[0] // 2] * 2)
            named: dict[str, Place] = {
                "input_layernorm.weight": self.attention_norm[i],
                "self_attn.q_proj.weight": q,
                "self_attn.k_proj.weight": k,
                "self_attn.v_proj.weight": v,
                "self_attn.o_proj.weight": self.out[i],
                "post_attention_layernorm.weight": self.mlp_norm[i],
                "mlp.gate_proj.weight": gate,
                "mlp.up_proj.weight": up,
                "mlp.down_proj.weight": self.down[i],
            }
            if self.qkv_bias:
                biases = torch.split(self.qkv_bias[i], [query, kv, kv])
                named |= {f"self_attn.{name}_proj.bias": bias for name, bias in zip("qkv", biases, strict=True)}
            if self.out_bias:
                named["self_attn.o_proj.bias"] = self.out_bias[i]
            if self.query_norm:
                named |= {"self_attn.q_norm.weight": self.query_norm[i], "self_attn.k_norm.weight": self.key_norm[i]}
            places |= {f"model.layers.{i}.{name}": view for name, view in named.items()}
        return places

    def forward(self, ids: Tensor, attend: Attend) -> Tensor:
        """Hidden states [T, E] of the tokens ``ids`` [T], after the last norm."""
        ops, quantise = self.ops, self.float8
        x = F.embedding(ids, self.embedding)  # [T, E], the residual stream: add_norm adds to it in place
        delta: Tensor | None = None  # the output of the previous block; the next add_norm adds it to x
        for i in range(self.layers):
            h = ops.add_norm(x, delta, self.attention_norm[i], self.eps, quantise=quantise)
            qkv = linear(h, self.qkv[i], self.qkv_bias[i] if self.qkv_bias else None)
            if self.query_norm:
                self._normalise_heads(qkv, i)
            attended = attend(i, qkv)  # [T, heads * D]
            bias = self.out_bias[i] if self.out_bias else None
            delta = linear(ops.quantise(attended) if quantise else attended, self.out[i], bias)
            h = ops.add_norm(x, delta, self.mlp_norm[i], self.eps, quantise=quantise)
            delta = linear(ops.silu_mul(linear(h, self.gate_up[i]), quantise=quantise), self.down[i])
        return cast(Tensor, ops.add_norm(x, delta, self.norm, self.eps, quantise=False))

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of the token after each of ``hidden`` [..., E]. The head's padding rows give -inf."""
        logits = F.linear(hidden, self.head)
        logits[..., self.vocab_size :] = float("-inf")
        return logits

    def _normalise_heads(self, qkv: Tensor, layer: int) -> None:
        """Apply the RMS norm to each head of queries and keys in ``qkv`` [T, (heads + 2 * kv_heads) * D], in place."""
        heads = qkv.view(len(qkv), -1, self.head_dim)
        for part, weight in (
            (heads[:, : self.heads], self.query_norm[layer]),
            (heads[:, self.heads : self.heads + self.kv_heads], self.key_norm[layer]),
        ):
            part.copy_(F.rms_norm(part, (self.head_dim,), weight, self.eps))

    def _rotary_table(self, config: Sizes) -> tuple[Tensor, Tensor]:
        rope = config.rope_parameters
        if rope["rope_type"] == "default":
            exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
            frequencies, scale = rope["rope_theta"] ** -exponents, 1.0  # [D / 2]
        else:
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            frequencies, scale = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config.scaled)
        angles = torch.outer(torch.arange(self.max_positions, dtype=torch.float32), frequencies)  # [positions, D / 2]
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = scale * angles.cos(), scale * angles.sin()
        return cos.to(self.device, self.dtype), sin.to(self.device, self.dtype)


def linear(x: Matrix, weight: Matrix, bias: Tensor | None = None) -> Tensor:
    """``x`` [T, K] times ``weight`` [O, K] transposed, plus ``bias`` [O]: [T, O]. ``x`` is float8 if ``weight`` is."""
    if isinstance(weight, Float8):
        product = float8.product(cast(Float8, x), weight)
        return product if bias is None else product.add_(bias)
    return F.linear(cast(Tensor, x), weight, bias)


def _ops(device: torch.device) -> Ops:
    if device.type == "cuda":
        from capsfusion_tasks.fusion.native import triton_ops

        return triton_ops
    from capsfusion_tasks.fusion.native import torch_ops

    return torch_ops
