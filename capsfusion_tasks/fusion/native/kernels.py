"""Triton kernels for the forward pass of LLaMA over T packed tokens. ``triton_ops`` launches these kernels.

Names: H query heads, KVH key heads, D numbers per head (DP: D rounded up to a power of two, at least 16), N slots, B
beams, P tokens of the prefix (the text that all prompts begin with). A page of the KV cache has PAGE tokens, which
attention reads as one block. Sums are in float32. PREC is "ieee" for float32, because otherwise Triton rounds float32
operands to TF32. Exponentials are to base 2, so ``scale`` contains the factor log2(e).
"""

from __future__ import annotations

import triton
import triton.language as tl

from capsfusion_tasks.fusion.native import float8

LARGEST = tl.constexpr(float8.LARGEST)
SMALLEST_SCALE = tl.constexpr(float8.SMALLEST_SCALE)
# The initial value of a row's largest score. Finite, because the difference of two infinities would be NaN.
NOTHING = tl.constexpr(-1.0e30)


@triton.jit
def _attend_block(q, k, v, seen, scale, mean, top, total, PREC: tl.constexpr):
    """Add a block of keys to an online softmax (Milakov and Gimelshein, 2018).

    For M queries: q [M, D], k and v [BLOCK, D], seen [M, BLOCK] (whether a query may attend to a key). The state so
    far: mean [M, D] is the weighted sum of values, which the caller divides by total at the end; top [M] is the largest
    score; total [M] is the sum of weights. The weight of a score is 2 to the power of (score - top).
    """
    scores = tl.dot(q, tl.trans(k), input_precision=PREC) * scale  # [M, BLOCK]
    scores = tl.where(seen, scores, -float("inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PREC)
    return mean, new_top, total * shrink + tl.sum(weights, 1)


@triton.jit(do_not_specialize=["T", "P"])
def prefix_attention_kernel(
    Q, KEYS, VALUES, MEAN, LSE, scale, P, T,
    H: tl.constexpr, KVH: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of all T tokens to the prefix only: mean values [T, H, D], and log2 of the sum of weights [T, H]."""
    head = tl.program_id(1)
    kv_head = head // (H // KVH)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, DP)
    at = (i.to(tl.int64) * H + head)[:, None] * D + d[None, :]
    here = (i < T)[:, None] & (d < D)[None, :]
    q = tl.load(Q + at, mask=here, other=0.0)
    mean = tl.zeros([ROWS, DP], tl.float32)
    top = tl.full([ROWS], NOTHING, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, P, BLOCK):
        t = start + tl.arange(0, BLOCK)
        key_at = (kv_head * P + t)[:, None] * D + d[None, :]
        there = (t < P)[:, None] & (d < D)[None, :]
        k = tl.load(KEYS + key_at, mask=there, other=0.0)
        v = tl.load(VALUES + key_at, mask=there, other=0.0)
        mean, top, total = _attend_block(q, k, v, (t < P)[None, :], scale, mean, top, total, PREC)
    tl.store(MEAN + at, mean / total[:, None], mask=here)
    tl.store(LSE + i * H + head, top + tl.log2(total), mask=i < T)


@triton.jit
def _after_prefix(MEAN, LSE, at, here, lse_at, rows_here, M: tl.constexpr, DP: tl.constexpr, PREFIX: tl.constexpr):
    """The state from which an online softmax continues after the prefix.

    The whole prefix counts as one token, whose value is MEAN and whose score is LSE. This score is the largest so far,
    and therefore the token's weight is 1. Without a prefix, the softmax starts from nothing.
    """
    if PREFIX:
        mean = tl.load(MEAN + at, mask=here, other=0.0)
        top = tl.load(LSE + lse_at, mask=rows_here, other=0.0)
        total = tl.full([M], 1.0, tl.float32)
    else:
        mean = tl.zeros([M, DP], tl.float32)
        top = tl.full([M], NOTHING, tl.float32)
        total = tl.zeros([M], tl.float32)
    return mean, top, total


@triton.jit
def _or(a, b):
    return a | b


@triton.jit
def beam_attention_kernel(
    Q, MEAN, LSE, KEYS, VALUES, TABLE, SLOTS, USED, SEEN, OUT, scale, per_slot,
    B: tl.constexpr, H: tl.constexpr, KVH: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, M: tl.constexpr,
    PAGE: tl.constexpr, PAGES: tl.constexpr, PREFIX: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of each beam's new token to the prefix, and to the tokens of its slot that the beam sees.

    Reads each key and its value once for all beams of a slot. Skips tokens of dropped beams, which no beam sees.

    Each program handles one slot and one key head. The program's matrix of queries has one row for each pair of a beam
    and a query head that shares the key head, padded to M rows. SEEN [N, B, per_slot] has one integer for each beam and
    page: a bit mask of the page's tokens that the beam sees. All page numbers and masks are read at once, because
    reading them page by page would delay reading the keys.
    """
    n, kv_head = tl.program_id(0), tl.program_id(1)
    GROUP: tl.constexpr = H // KVH
    slot = tl.load(SLOTS + n)
    used = tl.load(USED + n)
    m = tl.arange(0, M)
    beam, head = m // GROUP, kv_head * GROUP + m % GROUP
    live = m < B * GROUP
    d = tl.arange(0, DP)
    lse_at = (n * B + beam) * H + head
    at = lse_at.to(tl.int64)[:, None] * D + d[None, :]
    here = live[:, None] & (d < D)[None, :]
    q = tl.load(Q + at, mask=here, other=0.0)
    j = tl.arange(0, PAGES)
    pages = tl.load(TABLE + slot * per_slot + j, mask=j < per_slot, other=0)
    bits_at = (n * B + beam)[:, None] * per_slot + j[None, :]
    bits = tl.load(SEEN + bits_at, mask=live[:, None] & (j < per_slot)[None, :], other=0)  # [M, PAGES]
    any_bits = tl.reduce(bits, 0, _or)  # [PAGES]
    mean, top, total = _after_prefix(MEAN, LSE, at, here, lse_at, live, M, DP, PREFIX)
    inside = tl.arange(0, PAGE)
    for i in range(tl.cdiv(used, PAGE)):
        page = tl.sum(tl.where(j == i, pages, 0), 0).to(tl.int64)
        key_at = ((page * KVH + kv_head) * PAGE + inside)[:, None] * D + d[None, :]
        any_seen = (tl.sum(tl.where(j == i, any_bits, 0), 0) >> inside) & 1  # [PAGE]
        there = (any_seen != 0)[:, None] & (d < D)[None, :]
        k = tl.load(KEYS + key_at, mask=there, other=0.0)
        v = tl.load(VALUES + key_at, mask=there, other=0.0)
        of_page = tl.sum(tl.where((j == i)[None, :], bits, 0), 1)  # [M]
        seen = ((of_page[:, None] >> inside[None, :]) & 1) != 0
        mean, top, total = _attend_block(q, k, v, seen, scale, mean, top, total, PREC)
    tl.store(OUT + at, (mean / total[:, None]).to(OUT.dtype.element_ty), mask=here)


@triton.jit
def prompt_attention_kernel(
    Q, MEAN, LSE, KEYS, VALUES, TABLE, SLOTS, STARTS, OUT, scale, per_slot,
    H: tl.constexpr, KVH: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr,
    PAGE: tl.constexpr, PREFIX: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """Attention of each token of new prompts: to the prefix, and to its own prompt up to this token (causal).

    Each program handles one head, for ROWS tokens of one prompt.
    """
    r, head, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(STARTS + r)
    length = tl.load(STARTS + r + 1) - first
    if block * ROWS < length:
        slot = tl.load(SLOTS + r)
        kv_head = head // (H // KVH)
        i = block * ROWS + tl.arange(0, ROWS)
        live = i < length
        d = tl.arange(0, DP)
        lse_at = (first + i) * H + head
        at = lse_at.to(tl.int64)[:, None] * D + d[None, :]
        here = live[:, None] & (d < D)[None, :]
        q = tl.load(Q + at, mask=here, other=0.0)
        mean, top, total = _after_prefix(MEAN, LSE, at, here, lse_at, live, ROWS, DP, PREFIX)
        end = tl.minimum((block + 1) * ROWS, length)
        for start in range(0, end, PAGE):
            page = tl.load(TABLE + slot * per_slot + start // PAGE).to(tl.int64)
            inside = tl.arange(0, PAGE)
            t = start + inside
            key_at = ((page * KVH + kv_head) * PAGE + inside)[:, None] * D + d[None, :]
            there = (t < length)[:, None] & (d < D)[None, :]
            k = tl.load(KEYS + key_at, mask=there, other=0.0)
            v = tl.load(VALUES + key_at, mask=there, other=0.0)
            seen = (t[None, :] <= i[:, None]) & (t < length)[None, :]
            mean, top, total = _attend_block(q, k, v, seen, scale, mean, top, total, PREC)
        tl.store(OUT + at, (mean / total[:, None]).to(OUT.dtype.element_ty), mask=here)


@triton.jit
def rotate_and_store_kernel(
    QKV, COS, SIN, POSITIONS, SLOTS, PLACES, TABLE, Q, KEYS, VALUES, per_slot,
    H: tl.constexpr, KVH: tl.constexpr, D: tl.constexpr, HALFP: tl.constexpr, HEADS: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """Rotate queries and keys by their positions, and store keys and values in the pages of the cache.

    QKV holds the H + 2 * KVH heads of a token one after another. Each program handles one token and HEADS heads.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    HALF: tl.constexpr = D // 2
    d = tl.arange(0, HALFP)
    here = (head < H + 2 * KVH)[:, None] & (d < HALF)[None, :]
    source = QKV + (token * (H + 2 * KVH) + head)[:, None] * D + d[None, :]
    first = tl.load(source, mask=here, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=here, other=0.0).to(tl.float32)
    position = tl.load(POSITIONS + token)
    cos = tl.load(COS + position * D + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(SIN + position * D + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
    turns = (head < H + KVH)[:, None]
    x = tl.where(turns, first * cos - second * sin, first)
    y = tl.where(turns, second * cos + first * sin, second)

    is_query = here & (head < H)[:, None]
    target = Q + (token * H + head)[:, None] * D + d[None, :]
    tl.store(target, x.to(Q.dtype.element_ty), mask=is_query)
    tl.store(target + HALF, y.to(Q.dtype.element_ty), mask=is_query)

    place = tl.load(PLACES + token)
    page = tl.load(TABLE + tl.load(SLOTS + token) * per_slot + place // PAGE).to(tl.int64)
    is_key = here & ((head >= H) & (head < H + KVH))[:, None]
    target = KEYS + ((page * KVH + head - H) * PAGE + place % PAGE)[:, None] * D + d[None, :]
    tl.store(target, x.to(KEYS.dtype.element_ty), mask=is_key)
    tl.store(target + HALF, y.to(KEYS.dtype.element_ty), mask=is_key)
    is_value = here & (head >= H + KVH)[:, None]
    target = VALUES + ((page * KVH + head - H - KVH) * PAGE + place % PAGE)[:, None] * D + d[None, :]
    tl.store(target, x.to(VALUES.dtype.element_ty), mask=is_value)
    tl.store(target + HALF, y.to(VALUES.dtype.element_ty), mask=is_value)


@triton.jit
def _store_row(OUT, SCALES, row, e, N: tl.constexpr, y, FLOAT8: tl.constexpr):
    """Store a row of N numbers: with FLOAT8, as float8 and with a scale for this row; otherwise without a scale."""
    if FLOAT8:
        y = y.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(y), 0) / LARGEST, SMALLEST_SCALE)
        tl.store(SCALES + row, scale)
        y = y / scale
    tl.store(OUT + row * N + e, y.to(OUT.dtype.element_ty), mask=e < N)


@triton.jit
def add_norm_kernel(
    X, DELTA, WEIGHT, OUT, SCALES, eps,
    E: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, FLOAT8: tl.constexpr,
):  # fmt: skip
    """With ADD, first add DELTA to X in place. OUT is the RMS norm of X, times WEIGHT. A program handles one token."""
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    x = tl.load(X + token * E + e, mask=e < E, other=0.0)
    if ADD:
        x += tl.load(DELTA + token * E + e, mask=e < E, other=0.0)
        tl.store(X + token * E + e, x, mask=e < E)
    x = x.to(tl.float32)
    x = x * (1.0 / tl.sqrt_rn(tl.sum(x * x, 0) / E + eps))
    y = x.to(WEIGHT.dtype.element_ty) * tl.load(WEIGHT + e, mask=e < E, other=0.0)
    _store_row(OUT, SCALES, token, e, E, y, FLOAT8)


@triton.jit
def silu_mul_kernel(GATE_UP, OUT, SCALES, INNER: tl.constexpr, BLOCK: tl.constexpr, FLOAT8: tl.constexpr):
    """SiLU of the first half of a row of GATE_UP, times the second half. Each program handles one token."""
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    gate = tl.load(GATE_UP + token * 2 * INNER + e, mask=e < INNER, other=0.0).to(tl.float32)
    up = tl.load(GATE_UP + token * 2 * INNER + INNER + e, mask=e < INNER, other=0.0)
    y = (gate / (1.0 + tl.exp(-gate))).to(up.dtype) * up
    _store_row(OUT, SCALES, token, e, INNER, y, FLOAT8)


@triton.jit
def quantise_kernel(X, OUT, SCALES, E: tl.constexpr, BLOCK: tl.constexpr):
    """Convert a token's row of X to float8, with one scale per row. Each program handles one token."""
    token = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK)
    _store_row(OUT, SCALES, token, e, E, tl.load(X + token * E + e, mask=e < E, other=0.0), True)
