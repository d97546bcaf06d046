"""A LLaMA's config.json: its sizes, and what this engine does not compute.

Read without transformers where that can be: importing it takes longer than torch and all else that a rank starts with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import refuse_code

# The ways to scale positions that do not change with the prompt's length.
_SCALED = ("linear", "llama3", "yarn")


class Sizes(Protocol):
    """What of transformers' LlamaConfig the model asks for."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    rope_parameters: dict[str, Any]


class LlamaSizes(BaseModel):
    """Of a LLaMA whose positions are not scaled. Names and defaults are those of transformers' LlamaConfig."""

    model_config = ConfigDict(extra="ignore")

    vocab_size: int = Field(32_000, gt=0)
    hidden_size: int = Field(4096, gt=0)
    intermediate_size: int = Field(11_008, gt=0)
    num_hidden_layers: int = Field(32, gt=0)
    num_attention_heads: int = Field(32, gt=0)
    num_key_value_heads: int = Field(32, gt=0)
    head_dim: int = Field(128, gt=0)
    max_position_embeddings: int = Field(2048, gt=0)
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, given: dict[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in given.items() if value is not None}
        heads = found.get("num_attention_heads", 32)
        theta = _rope(found).get("rope_theta", found.get("rope_theta", 10_000.0))
        return {
            "num_key_value_heads": heads,
            "head_dim": found.get("hidden_size", 4096) // heads,
            **found,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        }


def llama_config(folder: Path) -> Sizes:
    """The checkpoint's sizes. Raises InputError for what this engine does not compute."""
    refuse_code(folder)
    config = json.loads((folder / "config.json").read_text())
    problems = []
    if (kind := config.get("model_type")) != "llama":
        problems.append(f"its model_type is {kind}, not llama")
    if (rope_type := _rope_type(config)) not in ("default", *_SCALED):
        problems.append(f"its rope_type is {rope_type}")
    if (act := config.get("hidden_act", "silu")) != "silu":
        problems.append(f"its hidden_act is {act}")
    problems += [f"it has {name}" for name in ("attention_bias", "mlp_bias") if config.get(name)]
    if problems:
        raise InputError(
            f"the native engine cannot run {folder}: {', '.join(problems)}. Choose the other one: --engine transformers"
        )
    if rope_type in _SCALED:
        from transformers import LlamaConfig

        scaled: Sizes = LlamaConfig.from_pretrained(folder)
        return scaled
    try:
        return LlamaSizes.model_validate(config)
    except (ValidationError, TypeError, ZeroDivisionError) as error:
        raise InputError(f"{folder}/config.json is not that of a LLaMA: {error}") from error


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """How positions are scaled; transformers called it otherwise before version 5."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _rope_type(config: dict[str, Any]) -> str:
    rope = _rope(config)
    return str(rope.get("rope_type", rope.get("type", "default")))
