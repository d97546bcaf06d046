"""What decides a caption: the model, its numbers, the search, the prompt. Decided once, when units are planned."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict

BUNDLED = "bundled"  # the location of the model that comes with the package, whatever folder that is in

# The fields that shape captions. Where a model lies and what people call it are not among them.
_SHAPING = (
    "model_digest",
    "prompt_digest",
    "tokenizer_digest",
    "engine",
    "dtype",
    "eos_ids",
    "num_beams",
    "max_new_tokens",
)
# The fields that people know a decoding by, which are columns of the table ``fusions``, too.
_DESCRIBING = ("fusion_id", "model", "engine", "dtype", "num_beams", "max_new_tokens")


def described(
    *, fusion_id: str, model: str, engine: str, dtype: str, num_beams: int, max_new_tokens: int, bundled: bool
) -> str:
    """Model and settings in one line; ``bundled`` marks the toy."""
    beams = "1 beam" if num_beams == 1 else f"{num_beams} beams"
    toy = " (the bundled demo model, a toy)" if bundled else ""
    return f"{model}{toy}, {engine}, {dtype}, {beams}, at most {max_new_tokens} tokens; fusion {fusion_id}"


class Decoding(BaseModel):
    """How captions are made. The table ``fusions`` has a row for each decoding, and every unit refers to a row.

    Planning decides the decoding from settings and Params (``fusion/identity.py``). Tasks that fuse or report a unit
    read it from the ledger and need no model settings.
    """

    model_config = ConfigDict(frozen=True)

    fusion_id: str
    model: str  # a name for people
    model_revision: str  # the commit of a hub model; "" for a folder
    location: str  # BUNDLED, a folder, or ``owner/name@commit``
    model_digest: str
    prompt_digest: str
    tokenizer_digest: str
    engine: str
    dtype: str  # float32, bfloat16 or float8; never auto
    eos_ids: tuple[int, ...]  # a caption ends at any of them
    num_beams: int
    max_new_tokens: int

    @classmethod
    def of(cls, **fields: Any) -> Decoding:
        """The decoding with these fields. Its fusion_id is a digest of the fields that shape captions."""
        shape = json.dumps({name: fields[name] for name in _SHAPING}, sort_keys=True)
        return cls(fusion_id=hashlib.blake2b(shape.encode(), digest_size=6).hexdigest(), **fields)

    @property
    def description(self) -> str:
        """Model and settings in one line for people."""
        return described(**{name: getattr(self, name) for name in _DESCRIBING}, bundled=self.location == BUNDLED)

    @property
    def shape(self) -> dict[str, Any]:
        """The fields that shape captions: two decodings that agree in them make the same captions."""
        return {name: getattr(self, name) for name in _SHAPING}
