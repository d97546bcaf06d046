"""What a model's output is called: digests everything that shapes its captions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_files import model_folder
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, PROMPT_TEMPLATE
from capsfusion_tasks.fusion.weight_files import weight_files
from capsfusion_tasks.settings import Settings

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


def identify(settings: Settings) -> Fusion:
    """The fusion that ``settings`` describe. Needs the model's configuration and tokenizer, not its weights' bytes.

    A local model is digested by content: small files whole, weights by size and both ends. A hub model is known by its
    commit.
    """
    local = Path(settings.model).expanduser().is_dir()
    folder = model_folder(settings.model, weights=local)
    check_model(folder, engine=settings.engine)
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
