"""Compares the Triton kernels with plain torch, on a GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import tests.triton_interpreter  # noqa: F401

# isort: split
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native import float8, torch_ops, triton_ops
from capsfusion_tasks.fusion.native.attention import Beams, Prompts, Tokens, pack_prompts
from capsfusion_tasks.fusion.native.cache import KVCache, Pages
from capsfusion_tasks.fusion.native.float8 import Float8

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter stores bfloat16 numbers as integers, and wrongly computes with these integers.
on_a_gpu = pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter does not compute in bfloat16")
COMPUTED = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
CLOSE = {torch.float32: {"atol": 2e-6, "rtol": 1e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2}}
LAYER = 1  # of two
# Each shape is: heads, key heads, head size, beams, tokens of the prefix, tokens of a page.
SHAPES = [
    (4, 4, 16, 3, 12, 16),
    (4, 2, 32, 1, 70, 16),
    (8, 1, 24, 5, 1, 32),  # head size is no power of two; 40 rows exceed tl.dot's minimum of 16
    (2, 2, 16, 16, 0, 32),  # no prefix
    (2, 1, 256, 2, 5, 16),
]


def sample(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


class Setup:
    """A KV cache with a prefix and four slots of up to 50 tokens. Pages are in mixed order."""

    def __init__(
        self, heads: int, kv_heads: int, d: int, beams: int, prefix: int, page: int, dtype: torch.dtype
    ) -> None:
        self.heads, self.kv_heads, self.d, self.beams, self.dtype = heads, kv_heads, d, beams, dtype
        self.prefix, self.capacity = prefix, 50
        pages = Pages(pages=16, page_tokens=page, slots=4, capacity=self.capacity)
        for tokens in range(1, self.capacity + 1):  # slots grow in turns, so no slot has adjacent pages
            for slot in (2, 0, 3, 1):
                assert pages.grow(slot, tokens)
        model: Any = SimpleNamespace(layers=2, kv_heads=kv_heads, head_dim=d, device=DEVICE, dtype=dtype)
        shared = sample(2, 2, kv_heads, prefix, d, dtype=dtype)
        self.cache = KVCache.empty(model, (shared[0], shared[1]), pages)
        self.cache.keys.copy_(sample(*self.cache.keys.shape, dtype=dtype, seed=1))
        self.cache.values.copy_(sample(*self.cache.values.shape, dtype=dtype, seed=2))
        angles = sample(200, d // 2).repeat(1, 2)
        self.rotary = (angles.cos().to(dtype), angles.sin().to(dtype))

    def prompts(self, lengths: list[int]) -> Prompts:
        prompts = [[0] * n for n in lengths]
        return pack_prompts(prompts, [3, 0, 2][: len(lengths)], prefix=self.prefix, cache=self.cache)

    def visible(self, used: list[int]) -> tuple[Tensor, Tensor]:
        """Slots [N] with ``used`` tokens, and the places [N, B, capacity] that their beams see.

        A beam sees the first token and some random tokens.
        """
        slots, length = (torch.tensor(numbers, device=DEVICE) for numbers in ([1, 3, 0][: len(used)], used))
        visible = sample(len(used), self.beams, self.capacity, seed=3) > 0
        visible[:, :, 0] = True
        return slots, visible & (torch.arange(self.capacity, device=DEVICE) < length[:, None, None])

    def beam_attention(self, ops: ModuleType, queries: Tensor, used: list[int]) -> Tensor:
        """Attention of beams in the slots of ``visible``."""
        slots, visible = self.visible(used)
        length = torch.tensor(used, device=DEVICE)
        places = (length[:, None] - self.beams + torch.arange(self.beams, device=DEVICE)).view(-1)
        tokens = Tokens(places, places + self.prefix, slots.repeat_interleave(self.beams), places)
        beams = Beams(tokens, slots, length, ops.pack_seen(visible, self.cache))
        return ops.beam_attention(queries, self.cache, LAYER, beams)


@pytest.fixture(params=SHAPES, ids=str)
def setup(request: pytest.FixtureRequest) -> Setup:
    return Setup(*request.param, torch.float32)


def test_queries_turn_and_keys_and_values_find_their_pages(setup: Setup) -> None:
    tokens = setup.prompts([5, 40]).tokens
    qkv = sample(45, (setup.heads + 2 * setup.kv_heads) * setup.d)
    stored = []
    for ops in (torch_ops, triton_ops):
        cache = KVCache(*(x.clone() for x in vars(setup.cache).values()))
        queries = ops.rotate_and_store(qkv, setup.rotary, cache, LAYER, tokens)
        stored.append((queries, cache.keys, cache.values))
    for ours, expected in zip(stored[1], stored[0], strict=True):
        torch.testing.assert_close(ours, expected, **CLOSE[torch.float32])


def test_prompts_attend_over_the_prefix_and_causally_over_themselves(setup: Setup) -> None:
    prompts = setup.prompts([1, 37, 50])
    queries = sample(88, setup.heads, setup.d)
    expected, got = (ops.prompt_attention(queries, setup.cache, LAYER, prompts) for ops in (torch_ops, triton_ops))
    torch.testing.assert_close(got, expected, **CLOSE[torch.float32])


def test_beams_attend_over_the_prefix_and_what_they_see_of_their_slot(setup: Setup) -> None:
    queries = sample(3 * setup.beams, setup.heads, setup.d)
    used = [setup.beams + 1, 47, 33]
    expected, got = (setup.beam_attention(ops, queries, used) for ops in (torch_ops, triton_ops))
    torch.testing.assert_close(got, expected, **CLOSE[torch.float32])


def test_tokens_that_no_beam_sees_are_not_read(setup: Setup) -> None:
    queries = sample(3 * setup.beams, setup.heads, setup.d)
    used = [setup.beams + 1, 47, 33]
    expected = setup.beam_attention(triton_ops, queries, used)
    slots, visible = setup.visible(used)
    row, place = (~visible.any(1)).nonzero(as_tuple=True)
    page_tokens = setup.cache.keys.shape[3]
    page = setup.cache.table[slots[row], place // page_tokens]
    for numbers in (setup.cache.keys, setup.cache.values):
        numbers[LAYER, page, :, place % page_tokens] = torch.nan  # a weight of 0 times NaN would be NaN
    assert setup.beam_attention(triton_ops, queries, used).equal(expected)


@on_a_gpu
def test_attention_in_bfloat16_is_that_of_float32_to_its_precision() -> None:
    exact, setup = (Setup(*SHAPES[0], dtype) for dtype in (torch.float32, torch.bfloat16))
    queries, used, prompts = sample(9, setup.heads, setup.d), [4, 47, 33], setup.prompts([1, 8])
    expected = exact.beam_attention(torch_ops, queries, used)
    got = setup.beam_attention(triton_ops, queries.bfloat16(), used)
    torch.testing.assert_close(got.float(), expected, **CLOSE[torch.bfloat16])
    expected = torch_ops.prompt_attention(queries, exact.cache, LAYER, prompts)
    got = triton_ops.prompt_attention(queries.bfloat16(), setup.cache, LAYER, prompts)
    torch.testing.assert_close(got.float(), expected, **CLOSE[torch.bfloat16])


@pytest.mark.parametrize("first", [True, False], ids=["first layer", "with a delta"])
def test_residual_and_norm(first: bool) -> None:
    x, weight = sample(5, 40), sample(40)
    delta = None if first else sample(5, 40, seed=1)
    ours, expected = x.clone(), x.clone()
    got = triton_ops.add_norm(ours, delta, weight, 1e-5, quantise=False)
    torch.testing.assert_close(got, torch_ops.add_norm(expected, delta, weight, 1e-5, quantise=False))
    torch.testing.assert_close(ours, expected)


def test_silu_times_up() -> None:
    gate_up = sample(5, 2 * 24)
    got, expected = (ops.silu_mul(gate_up, quantise=False) for ops in (triton_ops, torch_ops))
    torch.testing.assert_close(got, expected)


def test_rows_are_quantised_with_a_scale_each() -> None:
    x, gate_up, weight = (sample(n, 48, dtype=COMPUTED) for n in (6, 5, 1))
    x[2] = 0.0
    # A row of large numbers must not change other rows, because each row has its own scale.
    x[3] *= 1e4
    pairs = [
        tuple(ops.quantise(x) for ops in (triton_ops, torch_ops)),
        tuple(ops.silu_mul(gate_up, quantise=True) for ops in (triton_ops, torch_ops)),
        tuple(ops.add_norm(x.clone(), x, weight[0], 1e-5, quantise=True) for ops in (triton_ops, torch_ops)),
    ]
    for got, expected in pairs:
        assert isinstance(got, Float8)
        assert isinstance(expected, Float8)
        torch.testing.assert_close(got.scales, expected.scales, rtol=1e-2, atol=0)
        ours, theirs = got.values.float(), expected.values.float()
        # Leave out powers of two: if the interpreter rounds a number up to a power of two, it halves the result.
        if DEVICE.type == "cpu":
            sound = theirs.frexp().mantissa.abs() != 0.5
            ours, theirs = ours[sound], theirs[sound]
        # Scales may differ in their last bit. This can move a value to the next float8 number. Float8 numbers are far
        # apart, because they have only 3 bits of mantissa.
        torch.testing.assert_close(ours, theirs, rtol=0.13, atol=2**-9)
    assert pairs[0][0].values[2].float().eq(0).all()


@pytest.mark.skipif(DEVICE.type == "cuda", reason="Triton finds a GPU here")
def test_where_triton_cannot_compile_the_error_says_what_it_needs() -> None:
    with pytest.raises(InputError, match=r"Triton cannot compile.*apt install gcc.*--engine transformers"):
        triton_ops.require()


def test_products_of_quantised_rows_are_near_the_exact_ones() -> None:
    if DEVICE.type == "cuda" and torch.cuda.get_device_capability() < float8.MIN_CAPABILITY:
        pytest.skip("this card has no float8 products")
    x, w = sample(7, 64, dtype=COMPUTED), sample(48, 64, dtype=COMPUTED, seed=1)
    weight = Float8.empty(48, 64, DEVICE)
    query, rest = weight.split([16, 32])
    query.copy_(w[:16])
    rest.copy_(w[16:])
    quantised = triton_ops.quantise(x)
    got = float8.product(quantised, weight).float()
    expected = (quantised.values.float() * quantised.scales) @ (weight.values.float() * weight.scales).T
    assert (got - expected).norm() / expected.norm() < 0.005  # bfloat16's rounding
    exact = x.float() @ w.float().T
    assert (got - exact).norm() / exact.norm() < 0.07  # float8's error: both factors have 3 bits of mantissa
