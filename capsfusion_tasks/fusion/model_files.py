"""Finds a model's files, in a folder or in a snapshot from the hub, and reads its configuration.

Does not import torch, because Airflow tasks import this module. Does not import settings, because benchmarks run
without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.json_files import read_object
from capsfusion_tasks.fusion.model_tokenizer import FILES, load_tokenizer, tokenizer_file
from capsfusion_tasks.fusion.weight_files import check_whole, refuse_adapter, weight_files

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def model_folder(model: str, *, weights: bool = True) -> Path:
    """The local folder of ``model``: the folder itself, or the hub's snapshot. Downloads a missing snapshot.

    ``model`` is a folder or a hub id, ``owner/name`` or ``owner/name@revision``. Without ``weights``, downloads only
    the configuration and the tokenizer. Raises InputError if a needed file is missing or a weight file is cut short,
    and NotReadyError if the hub does not answer.
    """
    folder = Path(model).expanduser()
    if _reached(folder, Path.is_dir):
        _check_weights(_require_files(folder, weights=weights))
        return folder
    if not _HUB_ID.fullmatch(model) or folder.is_absolute():
        raise InputError(
            f"no model at {model}: give a folder with config.json, tokenizer and weights, or a hub id"
            " such as BAAI/CapsFus-LLaMA"
        )
    from capsfusion_tasks.fusion import hub_model  # imported only here, because most commands need no hub

    folder = hub_model.download(model, weights=weights)
    try:
        files = _require_files(folder, weights=weights)
    except InputError:
        hub_model.require_complete(model, folder, weights=weights)
        raise
    _check_weights(files)
    return folder


def _require_files(folder: Path, *, weights: bool) -> list[Path]:
    """The weight files of ``folder``; without ``weights``, none. Raises InputError if a needed file is missing."""
    for names in (("config.json",), FILES):
        if not any(_reached(folder / name, Path.is_file) for name in names):
            refuse_adapter(folder)
            raise InputError(
                f"{folder} has no {' or '.join(names)}: give a folder with a checkpoint in Hugging Face's layout"
            )
    return weight_files(folder) if weights else []


def _check_weights(files: list[Path]) -> None:
    for file in files:
        check_whole(file)


def _reached(path: Path, ask: Callable[[Path], bool]) -> bool:
    """Call ``ask(path)``. Raises InputError for errors of the file system, such as missing permissions."""
    try:
        return ask(path)
    except OSError as error:
        raise InputError(f"cannot read the model at {path}: {error.strerror or error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json. Raises InputError if it cannot be read, or needs a feature that no engine here has."""
    config = read_object(folder / "config.json")
    # transformers would ask on the terminal whether it may run the model's Python code, but a worker has no terminal.
    if config.get("auto_map"):
        raise InputError(
            f"{folder}/config.json needs Python code (auto_map), which is never run: give a model without auto_map"
        )
    if quantisation := config.get("quantization_config"):
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else quantisation
        raise InputError(
            f"{folder} is quantised (quantization_config in config.json, method {method}): give the model in bfloat16,"
            " float16 or float32"
        )
    if name := config.get("transformers_weights"):
        raise InputError(
            f"{folder}/config.json has the entry transformers_weights ({name}), which is not supported: remove it, and"
            " rename the weight file to model.safetensors"
        )
    return config


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The ids of the tokens that end a caption, sorted. There is at least one.

    Reads them from the first of these files that has them: generation_config.json, config.json, the tokenizer's file.
    transformers' ``generate`` uses the same ids. Raises InputError for ids that are not tokens of the model.
    """
    vocab_size = read_object(folder / "config.json").get("vocab_size")
    for file in (folder / "generation_config.json", folder / "config.json"):
        named = read_object(file).get("eos_token_id") if file.is_file() else None
        if named is None:
            continue
        ids = named if isinstance(named, list) else [named]
        for token in ids:
            if type(token) is not int or token < 0 or (type(vocab_size) is int and token >= vocab_size):
                raise InputError(
                    f"{file} has eos_token_id {str(named)[:50]}: expected a token id or a list of token ids, each at"
                    f" least 0 and less than vocab_size ({vocab_size})"
                )
        if ids:
            return tuple(sorted(set(ids)))
    tokenizer = load_tokenizer(folder)
    if tokenizer.eos_id < 0:
        raise InputError(
            f"{folder}: neither generation_config.json, config.json nor {tokenizer_file(folder).name} names the token"
            " that ends a caption: set eos_token_id in generation_config.json"
        )
    return (tokenizer.eos_id,)
