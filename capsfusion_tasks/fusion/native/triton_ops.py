"""The native engine's operations as Triton kernels, for CUDA. ``torch_ops`` has the same functions in plain torch.

The numbers of warps, and of rows and tokens per block, are those that were the fastest in tests on an H200 with the
sizes of a 13B model.
"""

from __future__ import annotations

import math
import subprocess

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native import kernels
from capsfusion_tasks.fusion.native.attention import Beams, Prompts, Tokens
from capsfusion_tasks.fusion.native.cache import KVCache
from capsfusion_tasks.fusion.native.float8 import Float8

# Number of tokens in a page. At most 32, because ``pack_seen`` packs one bit per token of a page into an int32.
# Attention reads a page at a time, and blocks of 32 keys were the fastest, with 2 warps and 3 stages.
PAGE_TOKENS: int | None = 32
# Prefills are padded to a multiple of this number of tokens, because cuBLAS computes in tiles of up to 256 rows.
# Without padding, cuBLAS would load a new kernel for nearly every number of tokens.
PREFILL_MULTIPLE = 256
# Number of query rows that one Triton program handles, in attention over the prefix or a prompt.
_ROWS = 64
_HEADS = 8  # number of heads that one program of rotate_and_store_kernel handles
_SMALLEST_DOT = 16  # smallest number of rows or columns of a matrix that tl.dot accepts


def require() -> None:
    """Raise InputError if Triton cannot compile kernels: it needs a C compiler and Python's headers."""
    try:
        triton.runtime.driver.active.get_current_target()
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise InputError(
            f"Triton cannot compile the engine's kernels ({error}): install a C compiler and Python's headers (Debian:"
            " apt install gcc libc6-dev python3-dev), or choose --engine transformers"
        ) from error


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, *, quantise: bool) -> Tensor | Float8:
    out = _output(x, x.shape[1], quantise)
    values, scales = _parts(out)
    kernels.add_norm_kernel[(len(x),)](
        x,
        x if delta is None else delta,
        weight,
        values,
        scales,
        eps,
        E=x.shape[1],
        BLOCK=triton.next_power_of_2(x.shape[1]),
        ADD=delta is not None,
        FLOAT8=quantise,
        num_warps=8,
    )
    return out


def silu_mul(gate_up: Tensor, *, quantise: bool) -> Tensor | Float8:
    inner = gate_up.shape[1] // 2
    out = _output(gate_up, inner, quantise)
    kernels.silu_mul_kernel[(len(gate_up),)](
        gate_up, *_parts(out), INNER=inner, BLOCK=triton.next_power_of_2(inner), FLOAT8=quantise, num_warps=8
    )
    return out


def quantise(x: Tensor) -> Float8:
    out = Float8.empty(len(x), x.shape[1], x.device)
    kernels.quantise_kernel[(len(x),)](
        x, out.values, out.scales, E=x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8
    )
    return out


def rotate_and_store(qkv: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache, layer: int, tokens: Tokens) -> Tensor:
    _, _, kv_heads, page_tokens, d = cache.keys.shape
    heads = qkv.shape[1] // d - 2 * kv_heads
    queries = qkv.new_empty(len(qkv), heads, d)
    kernels.rotate_and_store_kernel[(len(qkv), triton.cdiv(heads + 2 * kv_heads, _HEADS))](
        qkv,
        *rotary,
        tokens.positions,
        tokens.slots,
        tokens.places,
        cache.table,
        queries,
        cache.keys[layer],
        cache.values[layer],
        cache.table.shape[1],
        H=heads,
        KVH=kv_heads,
        D=d,
        HALFP=triton.next_power_of_2(d // 2),
        HEADS=_HEADS,
        PAGE=page_tokens,
        num_warps=4,
    )
    return queries


def prompt_attention(queries: Tensor, cache: KVCache, layer: int, prompts: Prompts) -> Tensor:
    heads = queries.shape[1]
    longest = max(prompts.lengths)
    rows = _ROWS if longest > _ROWS // 2 else _ROWS // 2
    out = torch.zeros_like(queries)
    kernels.prompt_attention_kernel[(len(prompts.lengths), heads, triton.cdiv(longest, rows))](
        queries,
        *_prefix_attention(queries, cache, layer),
        cache.keys[layer],
        cache.values[layer],
        cache.table,
        prompts.slots,
        prompts.starts,
        out,
        _scale(queries),
        cache.table.shape[1],
        **_sizes(queries, cache),
        ROWS=rows,
        num_warps=4,
        num_stages=_stages(queries, 2),
    )
    return out.view(len(queries), -1)


def pack_seen(visible: Tensor, cache: KVCache) -> Tensor:
    """``visible`` [N, B, capacity] as one number per page, with a bit for each token: [N, B, pages] int32."""
    page_tokens, per_slot = cache.keys.shape[3], cache.table.shape[1]
    padded = F.pad(visible, (0, per_slot * page_tokens - visible.shape[-1]))
    tokens = padded.view(*visible.shape[:2], per_slot, page_tokens)
    bits = torch.arange(page_tokens, device=visible.device, dtype=torch.int32)
    return torch.sum(tokens.int() << bits, dim=-1, dtype=torch.int32)


def beam_attention(queries: Tensor, cache: KVCache, layer: int, beams: Beams) -> Tensor:
    kv_heads, per_slot = cache.keys.shape[2], cache.table.shape[1]
    b = len(queries) // len(beams.slots)
    m = max(_SMALLEST_DOT, triton.next_power_of_2(b * queries.shape[1] // kv_heads))
    out = torch.empty_like(queries)
    kernels.beam_attention_kernel[(len(beams.slots), kv_heads)](
        queries,
        *_prefix_attention(queries, cache, layer),
        cache.keys[layer],
        cache.values[layer],
        cache.table,
        beams.slots,
        beams.used,
        beams.seen,
        out,
        _scale(queries),
        per_slot,
        **_sizes(queries, cache),
        B=b,
        PAGES=triton.next_power_of_2(per_slot),
        M=m,
        num_warps=2 if m < 64 else 4,
        num_stages=_stages(queries, 3),
    )
    return out.view(len(queries), -1)


def _prefix_attention(queries: Tensor, cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    """Attention of all tokens to the prefix: mean values [T, heads, D] and log-sum-exp of the scores [T, heads].

    The softmax over a token's own slot continues from these two results. One Triton program handles many tokens, and
    reads the prefix once for all of them.
    """
    t, heads, _ = queries.shape
    p = cache.prefix_keys.shape[2]
    mean, lse = (queries.new_empty(shape, dtype=torch.float32) for shape in (queries.shape, (t, heads)))
    if p:
        sizes = _sizes(queries, cache)
        kernels.prefix_attention_kernel[(triton.cdiv(t, _ROWS), heads)](
            queries,
            cache.prefix_keys[layer],
            cache.prefix_values[layer],
            mean,
            lse,
            _scale(queries),
            p,
            t,
            **{name: sizes[name] for name in ("H", "KVH", "D", "DP", "PREC")},
            ROWS=_ROWS,
            BLOCK=32,
            num_warps=4,
            num_stages=_stages(queries, 2),
        )
    return mean, lse


def _sizes(queries: Tensor, cache: KVCache) -> dict[str, int | str | bool]:
    """Compile-time arguments of the attention kernels."""
    _, heads, d = queries.shape
    _, _, kv_heads, page_tokens, _ = cache.keys.shape
    return {
        "H": heads,
        "KVH": kv_heads,
        "D": d,
        "DP": max(_SMALLEST_DOT, triton.next_power_of_2(d)),
        "PAGE": page_tokens,
        "PREFIX": cache.prefix_keys.shape[2] > 0,
        "PREC": "ieee" if queries.dtype == torch.float32 else "tf32",
    }


def _stages(queries: Tensor, most: int) -> int:
    """How many blocks of keys a kernel loads at a time: ``most``, or only 1 if blocks are large.

    Small GPUs have only 100 KB of shared memory, which does not hold several large blocks.
    """
    return most if queries.shape[-1] * queries.itemsize <= 256 else 1


def _scale(queries: Tensor) -> float:
    """The factor for attention scores: 1 / sqrt(D), times log2(e), because the kernels' exponentials are to base 2."""
    return math.log2(math.e) / math.sqrt(queries.shape[-1])


def _output(x: Tensor, columns: int, quantise: bool) -> Tensor | Float8:
    return Float8.empty(len(x), columns, x.device) if quantise else x.new_empty(len(x), columns)


def _parts(out: Tensor | Float8) -> tuple[Tensor, Tensor]:
    """The tensors to which a kernel writes values and scales. If ``out`` is not float8, the kernel writes no scales."""
    return (out.values, out.scales) if isinstance(out, Float8) else (out, out)
