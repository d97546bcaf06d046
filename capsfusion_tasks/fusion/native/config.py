"""Reads a model's sizes from its config.json, and refuses features that the native engine does not support.

Imports transformers only for models with scaled positions (RoPE scaling), because importing transformers takes longer
than all other imports together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import read_config
from capsfusion_tasks.fusion.native.sizes import FAMILIES, Sizes, rope_of

# The kinds of position scaling that the engine supports: those whose scale does not depend on the prompt's length.
_SCALED = ("linear", "llama3", "yarn")
_LAYER_TYPES = ("full_attention", "sliding_attention")


def sizes_of(folder: Path, config: dict[str, Any]) -> Sizes | None:
    """The model's sizes, from ``config``, the content of config.json in ``folder``.

    None if the native engine does not support the model's family (LLaMA, Mistral …). Raises InputError for values that
    no model of this family has.
    """
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        return None
    try:
        return family.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}, not {str(first['input'])[:50]!r}" if place else first["msg"]
        raise InputError(
            f"{folder}/config.json has values that no {family.NAME} model has: {reason}; correct the file, or download"
            " it again"
        ) from error


def model_sizes(folder: Path) -> Sizes:
    """The sizes of the model in ``folder``. Raises InputError for features that the native engine does not support."""
    config = read_config(folder)
    sizes = sizes_of(folder, config)
    if sizes is None:
        known = ", ".join(FAMILIES)
        raise _cannot_run(folder, [f"its model_type is {config.get('model_type')}, not one of {known}"])
    rope, problems = rope_of(config), []
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", *_SCALED):
        problems.append(f"its rope_type is {rope_type}")
    if (act := config.get("hidden_act", "silu")) != "silu":
        problems.append(f"its hidden_act is {act}")
    problems += [f"it has {name}" for name in ("mlp_bias", "per_layer_config") if config.get(name)]
    if (types := config.get("layer_types")) and not _computes_layers(types, sizes):
        problems.append("it has layer_types that this engine does not support")
    if problems:
        raise _cannot_run(folder, problems)
    return sizes.scaled_as(_scaled(folder)) if rope_type in _SCALED else sizes


def check_positions(sizes: Sizes, prompt_tokens: int, new_tokens: int) -> None:
    """Raise InputError if a prompt plus a caption of these lengths exceed the model's positions or sliding window."""
    for most, what in (
        (sizes.max_position_embeddings, " positions"),
        (sizes.window, "-token sliding window (the native engine needs a window that holds prompt and caption)"),
    ):
        if most is not None and prompt_tokens + new_tokens > most:
            raise InputError(
                f"prompts of {prompt_tokens} and captions of {new_tokens} tokens do not fit in the model's"
                f" {most}{what}: choose shorter captions with --max-new-tokens"
            )


def _computes_layers(types: object, sizes: Sizes) -> bool:
    """Whether the engine computes layers of ``types``, the config's layer_types, with the sliding window in ``sizes``.

    Without such a window, it computes only layers with full attention.
    """
    if not isinstance(types, list) or len(types) != sizes.num_hidden_layers:
        return False
    return all(kind == _LAYER_TYPES[0] or (kind == _LAYER_TYPES[1] and sizes.window is not None) for kind in types)


def _cannot_run(folder: Path, problems: list[str]) -> InputError:
    return InputError(
        f"the native engine cannot run {folder}: {', '.join(problems)}. Choose the other engine: --engine transformers"
    )


def _scaled(folder: Path) -> Any:
    """The config as transformers reads it, with all parameters of RoPE scaling."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    except Exception as error:  # a wrong value that transformers does not check can raise any kind of error
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise InputError(
            f"{folder}/config.json has invalid rope_parameters or rope_scaling: {reason}; correct the file, or download"
            " it again"
        ) from error
    return config
