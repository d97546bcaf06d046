"""Decoding settings: model, dtype, beam search and prompt. The plan stage records them for each work unit."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

BUNDLED = "bundled"  # recorded instead of the demo model's location, which differs between installations

# Fields of ``Decoding`` that are copied from settings of the same name. A new field needs a setting, a field in
# ``Decoding``, a Param in ``plugins/dag_parts.py``, and the code that uses the field.
KNOBS = ("engine", "num_beams", "max_new_tokens", "keep_beams")
# The fields of ``Decoding`` that change captions. A model's location and name are left out, because model_digest
# identifies the model.
_SHAPING = ("model_digest", "prompt_digest", "tokenizer_digest", "dtype", "eos_ids", *KNOBS)
# Fields that later releases added to ``_SHAPING``, each with the value that captions of earlier releases were made
# with. If a field has this value, the digest that becomes the fusion_id leaves the field out, so that these captions
# keep their fusion_id.
_ADDED = {"keep_beams": False}
# The fields that describe decoding settings to people. They are also columns of the table ``fusions``.
_DESCRIBING = ("fusion_id", "model", "engine", "dtype", "num_beams", "max_new_tokens")


def described(
    *,
    fusion_id: str,
    model: str,
    engine: str,
    dtype: str,
    num_beams: int,
    max_new_tokens: int,
    bundled: bool,
    own_prompt: bool,
) -> str:
    """A model and its decoding settings in one line.

    ``bundled``: whether the model is the bundled demo model. ``own_prompt``: whether the prompt differs from the
    paper's prompt.
    """
    beams = "1 beam" if num_beams == 1 else f"{num_beams} beams"
    toy = " (the bundled demo model, a toy)" if bundled else ""
    prompt = ", a prompt of your own" if own_prompt else ""
    return f"{model}{toy}, {engine}, {dtype}, {beams}, at most {max_new_tokens} tokens{prompt}; fusion {fusion_id}"


class Decoding(BaseModel):
    """Decoding settings: how captions are made. A combination of these settings is called a fusion.

    Each fusion has a ``fusion_id`` and a row in the table ``fusions``. The plan stage derives decoding settings from
    settings and Params (``fusion/identity.py``), and records them in the warehouse. Tasks that fuse or report a unit
    read this record, so these tasks need no model settings.
    """

    model_config = ConfigDict(frozen=True)

    fusion_id: str
    model: str  # the name that people see
    model_revision: str  # the commit of a hub model; "" for a folder
    location: str  # BUNDLED, a folder, or ``owner/name@commit`` (a hub model)
    model_digest: str
    prompt_digest: str
    tokenizer_digest: str
    engine: str
    dtype: str  # float32, bfloat16 or float8; never auto
    eos_ids: tuple[int, ...]  # ids of the tokens that end a caption
    num_beams: int
    max_new_tokens: int
    keep_beams: bool = False  # whether to keep all captions that the beam search finished, not only the best
    # Text of the prompt template, so that workers need no prompt file. None: the paper's prompt. The fusion_id depends
    # on prompt_digest instead of this field.
    prompt: str | None = None

    @classmethod
    def of(cls, **fields: Any) -> Decoding:
        """Decoding settings with these fields. The fusion_id is a digest of the fields that change captions."""
        decoding = cls(fusion_id="", **fields)
        digest = hashlib.blake2b(json.dumps(decoding.shape, sort_keys=True).encode(), digest_size=6)
        return decoding.model_copy(update={"fusion_id": digest.hexdigest()})

    @property
    def description(self) -> str:
        """Model and settings in one line for people."""
        fields = {name: getattr(self, name) for name in _DESCRIBING}
        return described(**fields, bundled=self.location == BUNDLED, own_prompt=self.prompt is not None)

    @property
    def shape(self) -> dict[str, Any]:
        """The fields that change captions. Fusions with equal values of these fields produce the same captions."""
        shape = {name: getattr(self, name) for name in _SHAPING}
        return {name: value for name, value in shape.items() if name not in _ADDED or value != _ADDED[name]}
