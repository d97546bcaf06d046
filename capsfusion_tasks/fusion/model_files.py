"""Where a model's files are: a folder, or a hub id's snapshot. No settings here: benchmarks need none."""

from __future__ import annotations

import json
import re
from pathlib import Path

from capsfusion_tasks.errors import InputError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
# Of a .bin file that is no pickle of tensors only: torch's own message says how to run it all the same.
NO_TENSORS = "it is damaged, or a pickle with more than tensors in it, which could run code"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def model_folder(model: str, *, weights: bool = True) -> Path:
    """The local folder of ``model``: the folder itself, or the hub's snapshot, downloaded where it is missing.

    ``model`` is a folder or a hub id, ``owner/name`` or ``owner/name@revision``. Without ``weights`` only the
    configuration and the tokenizer are fetched. Raises InputError where a needed file is missing.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(model) or folder.is_absolute():
            raise InputError(
                f"no model at {model}: give a folder with config.json, tokenizer.model and weights, or a hub id"
            )
        folder = _hub_snapshot(model, weights=weights)
    for name in ("config.json", "tokenizer.model"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: it is no LLaMA checkpoint in Hugging Face's layout")
    if weights and not weight_files(folder):
        raise InputError(f"{folder} has no weights: expected *.safetensors or pytorch_model*.bin")
    return folder


def weight_files(folder: Path) -> list[Path]:
    """Weight files, safetensors where there are any (they need no unpickling), else the .bin shards."""
    for pattern in _WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """The tokens that end a caption, as ``generate`` takes them: generation_config.json's, else config.json's."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text()).get("eos_token_id")
            if found is not None:
                return tuple(sorted(found)) if isinstance(found, list) else (found,)
    raise InputError(f"{folder}/config.json has no eos_token_id: it says which token ends a caption")


def refuse_code(folder: Path) -> None:
    """Raise InputError for a checkpoint that wants to run code of its own.

    transformers would ask on the terminal, and a worker has none.
    """
    config = json.loads((folder / "config.json").read_text())
    if config.get("auto_map"):
        raise InputError(
            f"{folder}/config.json wants to run code of its own (auto_map); only built-in models are loaded"
        )


def _hub_snapshot(model: str, *, weights: bool) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    patterns = ["*.json", "tokenizer.model", *(_WEIGHTS if weights else ())]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no model {model}: there is no such folder, and the hub says: {reason}; check the name and HF_TOKEN"
        ) from error
