"""A LLaMA's config.json: its sizes, and what this engine does not compute.

Read without transformers where that can be: importing it takes longer than torch and all else that a rank starts with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import read_config

# The ways to scale positions that do not change with the prompt's length.
_SCALED = ("linear", "llama3", "yarn")
# Of one size. Far above any model, and low enough that products of sizes stay below 2^63.
_MOST = 1 << 24
_MOST_HEADS = 1 << 12
_MOST_LAYERS = 1 << 10


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

    @property
    def rope_parameters(self) -> dict[str, Any]: ...


Positive = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


class RopeParameters(BaseModel):
    """How positions are scaled. Only checks values: transformers takes any of them, and fails or computes NaN later."""

    model_config = ConfigDict(extra="ignore", strict=True)

    rope_type: str | None = None
    type: str | None = None
    factor: Positive = None
    rope_theta: Positive = None
    low_freq_factor: Positive = None
    high_freq_factor: Positive = None
    original_max_position_embeddings: Positive = None
    attention_factor: Positive = None
    beta_fast: Positive = None
    beta_slow: Positive = None
    mscale: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    mscale_all_dim: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    partial_rotary_factor: Annotated[float | None, Field(ge=1, le=1)] = None  # LLaMA rotates whole heads


class LlamaSizes(BaseModel):
    """Of a LLaMA whose positions are not scaled. Names and defaults are those of transformers' LlamaConfig."""

    model_config = ConfigDict(extra="ignore", strict=True)

    vocab_size: int = Field(32_000, gt=0, le=_MOST)
    hidden_size: int = Field(4096, gt=0, le=_MOST)
    intermediate_size: int = Field(11_008, gt=0, le=_MOST)
    num_hidden_layers: int = Field(32, gt=0, le=_MOST_LAYERS)
    num_attention_heads: int = Field(32, gt=0, le=_MOST_HEADS)
    num_key_value_heads: int = Field(32, gt=0, le=_MOST_HEADS)
    head_dim: int = Field(128, gt=0, le=_MOST_HEADS, multiple_of=2)
    max_position_embeddings: int = Field(2048, gt=0)
    rms_norm_eps: float = Field(1e-6, ge=0, allow_inf_nan=False)
    tie_word_embeddings: bool = False
    rope_theta: float = Field(10_000.0, gt=0, allow_inf_nan=False)
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)
    original_max_position_embeddings: Positive = None
    rope: RopeParameters = RopeParameters()

    @property
    def rope_parameters(self) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.rope_theta}

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, given: dict[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in given.items() if value is not None}
        heads, hidden = found.get("num_attention_heads", 32), found.get("hidden_size", 4096)
        derived: dict[str, Any] = {"num_key_value_heads": heads}
        if type(heads) is type(hidden) is int and heads > 0:
            derived["head_dim"] = hidden // heads
        if (rope := _rope(found)).get("rope_theta") is not None:
            found["rope_theta"] = rope["rope_theta"]
        return derived | found | {"rope": rope}

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> LlamaSizes:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is no multiple of num_key_value_heads"
                f" ({self.num_key_value_heads})"
            )
        return self


def llama_sizes(folder: Path, config: dict[str, Any]) -> LlamaSizes:
    """The sizes in ``config``, the config.json of ``folder``. Raises InputError for values that no LLaMA has."""
    try:
        return LlamaSizes.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}, not {str(first['input'])[:50]!r}" if place else first["msg"]
        raise InputError(f"{folder}/config.json is not that of a LLaMA: {reason}") from error


def llama_config(folder: Path) -> Sizes:
    """The checkpoint's sizes. Raises InputError for what this engine does not compute."""
    config = read_config(folder)
    if (kind := config.get("model_type")) != "llama":
        raise _cannot_run(folder, [f"its model_type is {kind}, not llama"])
    sizes = llama_sizes(folder, config)
    rope, problems = _rope(config), []
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", *_SCALED):
        problems.append(f"its rope_type is {rope_type}")
    if (act := config.get("hidden_act", "silu")) != "silu":
        problems.append(f"its hidden_act is {act}")
    names = ("attention_bias", "mlp_bias", "per_layer_config", "layer_types")
    problems += [f"it has {name}" for name in names if config.get(name)]
    if problems:
        raise _cannot_run(folder, problems)
    return _scaled(folder) if rope_type in _SCALED else sizes


def check_positions(positions: int, prompt_tokens: int, new_tokens: int) -> None:
    """Raise InputError if prompts and captions of so many tokens do not fit the model's ``positions``."""
    if prompt_tokens + new_tokens > positions:
        raise InputError(
            f"prompts of {prompt_tokens} and captions of {new_tokens} tokens do not fit the model's {positions}"
            " positions: choose shorter captions with --max-new-tokens"
        )


def _cannot_run(folder: Path, problems: list[str]) -> InputError:
    return InputError(
        f"the native engine cannot run {folder}: {', '.join(problems)}. Choose the other one: --engine transformers"
    )


def _scaled(folder: Path) -> Sizes:
    """As transformers reads and completes them, the parameters of the scaling included."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    try:
        sizes: Sizes = LlamaConfig.from_pretrained(folder)
        ROPE_INIT_FUNCTIONS[sizes.rope_parameters["rope_type"]](sizes)
    except Exception as error:  # transformers checks few of these parameters, and fails anywhere for the others
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise InputError(f"{folder}/config.json has no sound rope_parameters or rope_scaling: {reason}") from error
    return sizes


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """How positions are scaled. Where both names are there, transformers takes the older, rope_scaling.

    Raises ValueError where they are no JSON object.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_scaling or rope_parameters is no JSON object: {str(rope)[:50]!r}")
    return rope
