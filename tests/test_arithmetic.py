"""Compares the limits that benchmarks.fusion and benchmarks.gpu print with numbers worked out by hand."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from benchmarks.arithmetic import Cost, Limit
from benchmarks.device_rates import DeviceRates
from capsfusion_tasks.fusion.engine import Request

# The layer has 2 * 4 * 4 (queries, output) + 2 * 4 * 2 (keys, values) + 3 * 4 * 6 = 120 weights. The vocabulary head
# has 4 * 10 = 40 weights.
CONFIG = LlamaConfig(
    vocab_size=10,
    hidden_size=4,
    intermediate_size=6,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
COST = Cost(CONFIG, prefix=3, beams=2)
# Two prompt tokens after the prefix. Three generated tokens: the first comes from the prefill, so two decode steps.
ROW = Request(0, [1, 1, 1, 5, 6], 3)


def test_a_rows_limit_counts_products_weights_and_keys_and_values() -> None:
    limit = COST.limit([ROW, ROW], DeviceRates(1000.0, 1000.0, 100.0, layer_bytes=2, bytes=2), slots=4)
    # Layers: 2 tokens x 240. Attention: 2 x 3 + 1 + 2 = 9 pairs of tokens x 16. The head once: 80.
    assert limit.prefill == pytest.approx((480 + 9 * 16 + 80) / 1000)
    # 2 steps x 2 beams x (240 for the layer + 80 for the head) / 1000.
    assert limit.products == pytest.approx(1.28)
    # Each of 2 steps reads 160 weights of 2 bytes, for 4 rows at once.
    assert limit.weights == pytest.approx(2 * 320 / 4 / 100)
    # A token has 2 keys and 2 values of 2 bytes each. The first step reads the prompt's 2 own tokens and the newest
    # token of each beam. The second step reads one token more, if both beams continue the same token. Each step also
    # reads the prefix's 3 tokens, for 4 rows at once.
    assert limit.keys_values == pytest.approx((4 + 5 + 2 * 3 / 4) * 8 / 100)


def test_float8_speeds_up_the_layers_alone() -> None:
    limit = COST.limit([ROW], DeviceRates(2000.0, 1000.0, 100.0, layer_bytes=1, bytes=2), slots=4)
    assert limit.prefill == pytest.approx(480 / 2000 + (9 * 16 + 80) / 1000)
    assert limit.products == pytest.approx(4 * (240 / 2000 + 80 / 1000))
    assert limit.weights == pytest.approx(2 * (120 + 2 * 40) / 4 / 100)
    assert limit.keys_values == pytest.approx((4 + 5 + 2 * 3 / 4) * 8 / 100)


def test_products_and_weights_overlap_and_the_rest_adds_up() -> None:
    assert Limit(1.0, 2.0, 5.0, 4.0).rows_per_second == pytest.approx(1 / 10)
    assert Limit(1.0, 5.0, 2.0, 4.0).rows_per_second == pytest.approx(1 / 10)
