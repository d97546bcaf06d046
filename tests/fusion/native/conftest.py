from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.triton_interpreter import keep_language_interpreted

keep_language_interpreted()
Checkpoint = Callable[..., Path]


def write_llama(folder: Path, shard: str = "5GB", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a random LLaMA as safetensors. ``changes`` are changes to the model's config."""
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
    LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


@pytest.fixture(scope="session")
def written() -> dict[str, Path]:
    """The LLaMAs that tests have asked for so far, by the arguments of ``write_llama``."""
    return {}


@pytest.fixture
def checkpoint(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Checkpoint:
    """``write_llama`` with the model's name instead of its folder. Each test gets its own copies of the files.

    The scores of captions differ so clearly that rounding changes no caption.
    """

    def write(name: str = "model", **arguments: Any) -> Path:
        asked = repr(sorted(arguments.items()))
        if asked not in written:
            written[asked] = write_llama(tmp_path_factory.mktemp("llama"), **arguments)
        return shutil.copytree(written[asked], tmp_path / name)

    return write
