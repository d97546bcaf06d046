from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.triton_interpreter import keep_language_interpreted

keep_language_interpreted()
Checkpoint = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A function that writes a random LLaMA as safetensors. ``changes`` are changes to the model's config.

    The scores of captions differ so clearly that rounding changes no caption.
    """

    def write(name: str = "model", shard: str = "5GB", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        torch.manual_seed(0)
        sizes = {
            "vocab_size": 321,  # not a multiple of 64, so the head's rows are padded
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
        }
        model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(dtype)
        model.save_pretrained(tmp_path / name, max_shard_size=shard)
        return tmp_path / name

    return write
