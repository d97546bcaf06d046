"""Which model fuses, and what its output is called: resolves a model to files and digests what shapes its captions."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, PROMPT_TEMPLATE
from capsfusion_tasks.settings import Settings

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Fusion:
    """What a fusion_id stands for: a row of the warehouse's table ``fusions``."""

    fusion_id: str
    model: str
    model_revision: str
    model_digest: str
    prompt_digest: str
    tokenizer_digest: str
    engine: str
    dtype: str
    num_beams: int
    max_new_tokens: int

    def as_row(self) -> dict[str, Any]:
        """The columns of ``fusions``; ``spec`` holds what the digests stand for."""
        spec = {"prompt_template": PROMPT_TEMPLATE, "max_prompt_tokens": MAX_PROMPT_TOKENS, **asdict(self)}
        return {**asdict(self), "spec": spec}


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


def _hub_snapshot(model: str, *, weights: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError("a hub id needs huggingface_hub: pip install 'capsfusion-pipeline[fusion]'") from error
    name, _, revision = model.partition("@")
    patterns = ["*.json", "tokenizer.model", *(_WEIGHTS if weights else ())]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no model {model}: there is no such folder, and the hub says: {reason}; check the name and HF_TOKEN"
        ) from error


def identify(settings: Settings) -> Fusion:
    """The fusion that ``settings`` describe. Needs the model's configuration and tokenizer, not its weights' bytes.

    A local model is digested by content: small files whole, weights by size and both ends. A hub model is known by its
    commit.
    """
    local = Path(settings.model).expanduser().is_dir()
    folder = model_folder(settings.model, weights=local)
    digest = hashlib.blake2b(digest_size=16)
    digest.update((folder / "config.json").read_bytes())
    if local:
        revision = ""
        for file in weight_files(folder):
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            digest.update(_both_ends(file))
    else:
        revision = folder.name  # …/snapshots/<commit>
        digest.update(revision.encode())
    shape = {
        # The bundled demo model lies at another path on each machine: what counts is its content.
        "model_digest": digest.hexdigest(),
        "prompt_digest": _digest(f"{PROMPT_TEMPLATE}\0{MAX_PROMPT_TOKENS}".encode()),
        "tokenizer_digest": _digest((folder / "tokenizer.model").read_bytes()),
        "engine": settings.engine,
        "dtype": settings.dtype,
        "num_beams": settings.num_beams,
        "max_new_tokens": settings.max_new_tokens,
    }
    fusion_id = _digest(json.dumps(shape, sort_keys=True).encode(), size=6)
    name = f"{folder.parent.name}/{folder.name}" if local else settings.model.partition("@")[0]
    return Fusion(fusion_id=fusion_id, model=name, model_revision=revision, **shape)  # type: ignore[arg-type]


def _both_ends(file: Path) -> bytes:
    with file.open("rb") as stream:
        head = stream.read(_SAMPLE)
        stream.seek(max(0, file.stat().st_size - _SAMPLE))
        return head + stream.read(_SAMPLE)


def _digest(data: bytes, size: int = 16) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()
