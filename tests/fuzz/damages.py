"""Random damages of a model folder: config, tokenizer, index and weights.

Does not import torch, because most fuzz processes need no model, and the import takes seconds.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

LAYOUTS = ("one file", "shards", "pickle", "old pickle")
JSON_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
Damage = tuple[Any, ...]  # the kind of damage, then its parameters

INTEGERS = (0, -1, 1, 2, 3, 8, 16, 8191, 8192, 8193, 1 << 24, 1 << 40, 1 << 70)
NUMBERS = st.sampled_from((*INTEGERS, 0.5, 1e-300, 1e308, 1e400))
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=3) | st.lists(NUMBERS, max_size=3)
ROPES = st.fixed_dictionaries(
    {},
    optional={
        "rope_type": st.sampled_from(("default", "linear", "llama3", "yarn", "dynamic", "longrope", "none", 3)),
        "type": st.sampled_from(("default", "linear", "llama3", None)),
        "factor": VALUES,
        "rope_theta": VALUES,
        "low_freq_factor": VALUES,
        "high_freq_factor": VALUES,
        "original_max_position_embeddings": VALUES,
        "partial_rotary_factor": VALUES,
        "attention_factor": VALUES,
    },
)
KEYS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "partial_rotary_factor"),
    *("tie_word_embeddings", "attention_bias", "mlp_bias", "hidden_act", "model_type", "architectures", "dtype"),
    *("torch_dtype", "quantization_config", "auto_map", "transformers_weights", "layer_types", "per_layer_config"),
    *("eos_token_id", "bos_token_id", "pad_token_id", "pretraining_tp", "attention_dropout", "initializer_range"),
    *("repetition_penalty", "num_beams", "do_sample", "weight_map", "metadata", "is_encoder_decoder", "use_cache"),
)
ENDS = st.lists(st.integers(2, 8191), min_size=1, max_size=3)
CHANGES = (
    st.tuples(st.sampled_from(KEYS), VALUES)
    | st.tuples(st.sampled_from(("rope_scaling", "rope_parameters")), ROPES | VALUES)
    | st.tuples(st.just("eos_token_id"), ENDS)
)
NAMES = st.sampled_from(("config.json", "tokenizer.model", "weights", *JSON_FILES))
BYTES = st.sampled_from(("cut", "byte", "out", "in"))
TENSORS = ("out", "twice", "renamed", "prefix", "NaN", "huge", "reshaped", "int8", "half", "more", "own head")
DAMAGES = (
    st.tuples(st.just("set"), st.sampled_from(JSON_FILES), CHANGES)
    | st.tuples(st.just("unset"), st.sampled_from(JSON_FILES), st.sampled_from(KEYS))
    | st.tuples(st.just("bytes"), NAMES, st.floats(0, 1), BYTES, st.binary(max_size=9))
    | st.tuples(st.just("remove"), NAMES)
    | st.tuples(st.just("tensor"), st.integers(0, 30), st.sampled_from(TENSORS))
)


def model_folders() -> st.SearchStrategy[tuple[str, list[Damage]]]:
    layouts = st.sampled_from(LAYOUTS)
    only_json = st.lists(st.tuples(st.just("set"), st.sampled_from(JSON_FILES[:2]), CHANGES), min_size=1, max_size=3)
    return st.tuples(layouts, only_json | st.lists(DAMAGES, min_size=1, max_size=3))


CONFIG = ("set", "config.json")
PAST: tuple[tuple[str, list[Damage]], ...] = (
    ("one file", [(*CONFIG, ("rope_scaling", {"rope_type": "linear", "factor": False}))]),
    ("one file", [(*CONFIG, ("rope_scaling", {"rope_type": "yarn", "factor": None, "partial_rotary_factor": False}))]),
    ("one file", [(*CONFIG, ("rope_scaling", {"rope_type": "yarn", "factor": 2.0, "attention_factor": [1, 2]}))]),
    ("one file", [(*CONFIG, ("is_encoder_decoder", True))]),
    ("one file", [(*CONFIG, ("rms_norm_eps", 1e308))]),
)
