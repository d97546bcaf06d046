"""Makes LLaMAs of real sizes with random weights. The native engine and transformers share one copy of the weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.sizes import Sizes

_COMMON = {"vocab_size": 32001, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 16, "num_attention_heads": 8},
    "1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
    "13B": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
SIZES = {name: {**_COMMON, **size} for name, size in SIZES.items()}


def random_llama(config: LlamaConfig, device: torch.device, dtype: torch.dtype) -> Llama:
    """A LLaMA with random weights, whose standard deviation is the config's initializer_range. Norm weights are 1."""
    model = Llama(Sizes.model_validate(config.to_dict()), device, dtype)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.parameters().items():
        if name.endswith("norm.weight"):
            weight.copy_(torch.ones(weight.shape))
        else:
            values = torch.empty(weight.shape, device=device, dtype=model.dtype)
            weight.copy_(values.normal_(0.0, config.initializer_range, generator=generator))
    return model


def as_transformers(model: Llama, config: LlamaConfig) -> LlamaForCausalLM:
    """A transformers model with the weights of ``model``. Both models share the memory of the weights."""
    with torch.device("meta"):
        reference = LlamaForCausalLM(config)
    weights = {
        name: torch.nn.Parameter(cast(Tensor, view), requires_grad=False) for name, view in model.parameters().items()
    }
    reference.load_state_dict(weights, assign=True)
    # Made anew, because load_state_dict leaves the rotary embedding's buffer on the device "meta", without values.
    reference.model.rotary_emb = LlamaRotaryEmbedding(config).to(model.device)
    return reference.eval()
