"""Compares the native model's forward pass with that of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native.attention import over_prompts, pack_prompts
from capsfusion_tasks.fusion.native.cache import KVCache, Pages
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.config import model_sizes
from capsfusion_tasks.fusion.native.sizes import FAMILIES
from capsfusion_tasks.fusion.transformers_engine import load_model
from tests.fusion.native.conftest import Checkpoint

CPU = torch.device("cpu")
SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
)


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
    pages = Pages(pages=2, page_tokens=40, slots=2, capacity=40)
    for slot in (0, 1):
        pages.grow(slot, 40)
    cache = KVCache.empty(model, None, pages)
    prompts = pack_prompts(ids.tolist(), [1, 0], prefix=0, cache=cache)
    hidden = model.forward(prompts.tokens.ids, over_prompts(model, cache, prompts))
    torch.testing.assert_close(model.logits(hidden)[..., :321], expected.flatten(0, 1), atol=1e-4, rtol=0)
    assert model.logits(hidden)[..., 321:].eq(float("-inf")).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gemma2"}, "model_type is gemma2, not one of llama, mistral, qwen2, qwen3"),
        ({"model_type": ["llama"]}, "model_type is "),
        ({"mlp_bias": True}, "it has mlp_bias"),
        ({"layer_types": ["sliding_attention"] * 3}, "it has layer_types that this engine does not support"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rope_type is dynamic"),
    ],
)
def test_what_it_cannot_compute_is_refused(checkpoint: Checkpoint, changes: dict[str, Any], reason: str) -> None:
    folder: Path = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=f"{reason}.*--engine transformers"):
        load_llama(folder, CPU, torch.float32)


@pytest.mark.parametrize(
    "given",
    [
        {"hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 40, "vocab_size": 32_001},
        {"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "rope_scaling": None},
        {"num_attention_heads": 16, "num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": True},
        {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    ],
    ids=["13B", "as before version 5", "nulls", "as of version 5", "scaled"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_means_what_transformers_reads_in_it(tmp_path: Path, family: str, given: dict[str, Any]) -> None:
    # In configs of other families, transformers refuses some null values. Their default number of key heads need not
    # divide 40 or 16 heads, so the number is set.
    if family != "llama":
        given = {name: value for name, value in given.items() if value is not None}
        given |= {"num_key_value_heads": 8} if given.get("num_attention_heads", 32) != 32 else {}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **given}))
    sizes, expected = model_sizes(tmp_path), AutoConfig.from_pretrained(tmp_path)
    assert sizes.rope_parameters == expected.rope_parameters
    common = [name for name in type(sizes).model_fields if hasattr(expected, name)]
    assert {*SIZES} <= {*common, "head_dim"}
    for name in {*common} - {"sliding_window", "layer_types"}:
        assert getattr(sizes, name) == getattr(expected, name), name
    if not hasattr(expected, "head_dim"):
        assert sizes.head_dim == expected.hidden_size // expected.num_attention_heads


def test_a_config_that_makes_no_sense_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_attention_heads": "many"}))
    with pytest.raises(InputError, match="has values that no LLaMA model has"):
        model_sizes(tmp_path)
