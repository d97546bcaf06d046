"""The forward pass, against transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native.cache import PrefixAttention
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.transformers_engine import load_model
from tests.fusion.native.conftest import Checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2},
        {"num_key_value_heads": 1, "head_dim": 32},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 1e-3, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ],
    ids=["plain", "grouped heads", "one key head", "tied head", "norm and theta", "linear rope", "llama3 rope"],
)
@torch.inference_mode()
def test_logits_equal_transformers(checkpoint: Checkpoint, changes: dict[str, Any]) -> None:
    folder = checkpoint(**changes)
    model, reference = load_llama(folder, CPU, torch.float32), load_model(folder, CPU, torch.float32)
    ids = torch.randint(0, 321, (2, 40), generator=torch.Generator().manual_seed(1))
    expected = reference(input_ids=ids).logits  # [2, 40, 321]
    hidden = model.forward(ids, torch.arange(40).expand(2, -1), PrefixAttention())
    torch.testing.assert_close(model.logits(hidden)[..., :321], expected, atol=1e-4, rtol=0)
    assert model.logits(hidden)[..., 321:].eq(float("-inf")).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "model_type is qwen2"),
        ({"attention_bias": True}, "it has attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type is dynamic"),
    ],
)
def test_what_it_cannot_compute_is_refused(checkpoint: Checkpoint, changes: dict[str, Any], reason: str) -> None:
    folder: Path = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=f"{reason}.*--engine transformers"):
        load_llama(folder, CPU, torch.float32)
