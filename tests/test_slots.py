"""Compares the results of `python -m benchmarks.slots` with numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from benchmarks.slots import fit
from capsfusion_tasks.fusion.native.memory import Room

# Embedding and head, padded to 128 rows: 8,192 numbers. Norms: 96. Cosines and sines: 2 x 512 x 16. The layer's
# matrices: (32 + 2 x 16) x 32 + 32 x 32 + 96 x 32 + 32 x 48 = 7,680, of 64 + 32 + 96 + 32 = 224 rows.
CONFIG = LlamaConfig(
    vocab_size=100,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=512,
)


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(torch.bfloat16, 2 * (8192 + 96 + 16384 + 7680)), (torch.float8_e4m3fn, 2 * (8192 + 96 + 16384) + 7680 + 4 * 224)],
)
def test_slots_and_pages_are_what_a_card_has_left(dtype: torch.dtype, weights: int) -> None:
    # A page has 32 tokens of 16 keys and 16 values each: 2,048 bytes. The prefix's 112 tokens take 7,168 bytes. The
    # longest row takes 144 + 79 x 3 tokens, so 12 pages. A slot is assumed to use 4 tenths of these, 4.8 pages. So 482
    # pages are enough for 100 slots. The 483rd page is the spare one.
    taken = 600_000_000 + weights + 7_168 + 1_000_000 + (512 << 20) + 483 * 2048
    card = int((taken + 1000) / 0.98)  # a margin of 2% stays free
    found = fit(CONFIG, dtype, card=card, beams=3, batch=1_000_000)
    assert (found.weights, found.room, found.pages_of_a_row) == (weights, Room(slots=100, pages=482), 12)


def test_a_model_that_leaves_no_room_for_one_row_does_not_fit() -> None:
    least = 600_000_000 + 64_704 + 7_168 + 1_000_000 + 13 * 2048
    assert fit(CONFIG, torch.bfloat16, card=least, beams=3, batch=1_000_000).room == Room(slots=2, pages=12)
    assert fit(CONFIG, torch.bfloat16, card=least - 1, beams=3, batch=1_000_000).room is None
