from __future__ import annotations

from typing import Any

import pytest

from capsfusion_tasks.decoding import Decoding

FIELDS: dict[str, Any] = {
    "model": "demo",
    "model_revision": "",
    "location": "bundled",
    "model_digest": "m",
    "prompt_digest": "p",
    "tokenizer_digest": "t",
    "engine": "native",
    "dtype": "float32",
    "eos_ids": (2,),
    "num_beams": 3,
    "max_new_tokens": 80,
}


@pytest.mark.parametrize("added", [{}, {"keep_beams": False}], ids=str)
def test_a_field_that_was_added_later_leaves_older_captions_their_id(added: dict[str, Any]) -> None:
    # The fusion_id that versions without the field ``keep_beams`` computed. It must not change.
    assert Decoding.of(**FIELDS, **added).fusion_id == "b1931b0ce58b"


def test_keeping_beams_makes_another_fusion() -> None:
    kept = Decoding.of(**FIELDS, keep_beams=True)
    assert kept.fusion_id != Decoding.of(**FIELDS).fusion_id
    assert kept.shape != Decoding.of(**FIELDS).shape
