"""The sizes of a language model (layers, heads …), read from its config.json, with the defaults of its model family."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

# The largest allowed value of a size. It is larger than in any known model, and small enough that products of several
# sizes stay below 2^63.
_MOST = 1 << 24
_MOST_HEADS = 1 << 12
_MOST_LAYERS = 1 << 10

Positive = Annotated[float | None, Field(gt=0, allow_inf_nan=False)]


class RopeParameters(BaseModel):
    """How RoPE scales positions. Checks the values, because transformers accepts wrong values and then computes NaN."""

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
    # The factor can only be 1, because the engine rotates whole heads.
    partial_rotary_factor: Annotated[float | None, Field(ge=1, le=1)] = None


class Sizes(BaseModel):
    """The sizes that all model families have. Names and defaults are those of transformers' LlamaConfig."""

    model_config = ConfigDict(extra="ignore", strict=True)

    NAME: ClassVar[str] = "LLaMA"
    QK_NORM: ClassVar[bool] = False  # whether queries and keys are normalised, for each head separately
    KEY_VALUE_HEADS: ClassVar[int | None] = None  # default of num_key_value_heads; None: num_attention_heads
    HEAD_DIM: ClassVar[int | None] = None  # default of head_dim; None: hidden_size / num_attention_heads
    # Whether the projections to queries, keys and values (QKV_BIAS) and attention's output projection (OUT_BIAS) add a
    # bias. None: ``attention_bias`` in the config decides.
    QKV_BIAS: ClassVar[bool | None] = None
    OUT_BIAS: ClassVar[bool | None] = None

    vocab_size: int = Field(32_000, gt=0, le=_MOST)
    hidden_size: int = Field(4096, gt=0, le=_MOST)
    intermediate_size: int = Field(11_008, gt=0, le=_MOST)
    num_hidden_layers: int = Field(32, gt=0, le=_MOST_LAYERS)
    num_attention_heads: int = Field(32, gt=0, le=_MOST_HEADS)
    num_key_value_heads: int = Field(32, gt=0, le=_MOST_HEADS)
    head_dim: int = Field(128, gt=0, le=_MOST_HEADS, multiple_of=2)
    max_position_embeddings: int = Field(2048, gt=0)
    rms_norm_eps: float = Field(
        1e-6, ge=0, le=1
    )  # at most 1, because a huge value scales all hidden states to zero, and then all tokens score the same
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    rope_theta: float = Field(10_000.0, gt=0, allow_inf_nan=False)
    partial_rotary_factor: float = Field(1.0, ge=1, le=1)
    original_max_position_embeddings: Positive = None
    rope: RopeParameters = RopeParameters()

    _scaled: Any = PrivateAttr(None)  # transformers' config, from which transformers computes the scaled positions

    @property
    def qkv_bias(self) -> bool:
        """Whether the projections to queries, keys and values add a bias."""
        return self.attention_bias if self.QKV_BIAS is None else self.QKV_BIAS

    @property
    def out_bias(self) -> bool:
        """Whether attention's output projection adds a bias."""
        return self.attention_bias if self.OUT_BIAS is None else self.OUT_BIAS

    @property
    def window(self) -> int | None:
        """Length of the sliding window in tokens, counting the current token. None: no window."""
        return None

    @property
    def scaled(self) -> Any:
        """transformers' config if positions are scaled, otherwise None."""
        return self._scaled

    @property
    def rope_parameters(self) -> dict[str, Any]:
        if self._scaled is not None:
            return dict(self._scaled.rope_parameters)
        return {"rope_type": "default", "rope_theta": self.rope_theta}

    def scaled_as(self, config: Any) -> Sizes:
        """Scale positions according to transformers' ``config``. Returns this object."""
        self._scaled = config
        return self

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, given: dict[str, Any]) -> dict[str, Any]:
        # In config.json, null means the default, except for sliding_window, where null means no window.
        found = {name: value for name, value in given.items() if value is not None or name == "sliding_window"}
        heads, hidden = (
            found.get(name, cls.model_fields[name].default) for name in ("num_attention_heads", "hidden_size")
        )
        own_heads = cls.KEY_VALUE_HEADS if "num_key_value_heads" not in given else None
        derived: dict[str, Any] = {"num_key_value_heads": own_heads or heads}
        if cls.HEAD_DIM is not None:
            derived["head_dim"] = cls.HEAD_DIM
        elif type(heads) is type(hidden) is int and heads > 0:
            derived["head_dim"] = hidden // heads
        if (rope := rope_of(found)).get("rope_theta") is not None:
            found["rope_theta"] = rope["rope_theta"]
        return derived | found | {"rope": rope}

    @model_validator(mode="after")
    def _heads_share_keys_evenly(self) -> Sizes:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) is not a multiple of num_key_value_heads"
                f" ({self.num_key_value_heads})"
            )
        return self


class MistralSizes(Sizes):
    """Mistral: every layer has the sliding window, and no projection has a bias."""

    NAME = "Mistral"
    KEY_VALUE_HEADS = 8
    QKV_BIAS = OUT_BIAS = False

    intermediate_size: int = Field(14_336, gt=0, le=_MOST)
    max_position_embeddings: int = Field(131_072, gt=0)
    sliding_window: int | None = Field(4096, gt=0)

    @property
    def window(self) -> int | None:
        return self.sliding_window


class Qwen2Sizes(Sizes):
    """Qwen2 and Qwen2.5: queries, keys and values have a bias; the last layers may have a sliding window."""

    NAME = "Qwen2"
    KEY_VALUE_HEADS = 32
    QKV_BIAS: ClassVar[bool | None] = True
    OUT_BIAS: ClassVar[bool | None] = False

    vocab_size: int = Field(151_936, gt=0, le=_MOST)
    intermediate_size: int = Field(22_016, gt=0, le=_MOST)
    max_position_embeddings: int = Field(32_768, gt=0)
    use_sliding_window: bool = False
    sliding_window: int | None = Field(4096, gt=0)
    max_window_layers: int = 28
    layer_types: list[str] | None = None

    @property
    def window(self) -> int | None:
        if not self.use_sliding_window:
            return None
        if self.layer_types is None:
            return self.sliding_window if self.max_window_layers < self.num_hidden_layers else None
        return self.sliding_window if "sliding_attention" in self.layer_types else None


class Qwen3Sizes(Qwen2Sizes):
    """Qwen3: like Qwen2, but queries and keys are normalised, and biases are as in LLaMA."""

    NAME = "Qwen3"
    QK_NORM = True
    HEAD_DIM = 128
    QKV_BIAS = OUT_BIAS = None


# The families that the native engine supports, by ``model_type`` in config.json.
FAMILIES: dict[str, type[Sizes]] = {
    "llama": Sizes,
    "mistral": MistralSizes,
    "qwen2": Qwen2Sizes,
    "qwen3": Qwen3Sizes,
}


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """The config's entry for position scaling: rope_scaling, or else rope_parameters.

    transformers also prefers rope_scaling. Raises ValueError if the entry is not a JSON object.
    """
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_scaling or rope_parameters is not a JSON object: {str(rope)[:50]!r}")
    return rope
