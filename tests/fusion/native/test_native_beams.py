"""Besides the best caption of a beam search, both engines keep the same other captions, in the same order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from capsfusion_tasks.fusion.engine import Completion, Engine, Request, StaticRequests
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model
from tests.fusion.native.conftest import Checkpoint
from tests.fusion.native.test_native_engine import CPU, LIMIT, NEVER, PREFIX, random_requests

# The last request has its own token limit.
REQUESTS = [*random_requests(20, seed=3), Request(20, [*PREFIX, 40, 41], max_new_tokens=5)]


def completed(engine: Engine, requests: Sequence[Request] = REQUESTS) -> list[Completion]:
    """Completions in the order of rows. Removes the scores, because TransformersEngine returns no scores."""
    found = sorted(engine.generate(StaticRequests(requests)), key=lambda completion: completion.row)
    return [replace(completion, score=None) for completion in found]


@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_both_engines_keep_the_same_beams_token_for_token(checkpoint: Checkpoint, num_beams: int) -> None:
    folder = checkpoint(num_key_value_heads=2)
    model, reference = load_llama(folder, CPU, torch.float32), load_model(folder, CPU, torch.float32)
    search: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": LIMIT}

    def native(slots: int, eos: int, *, keep_beams: bool, requests: Sequence[Request] = REQUESTS) -> list[Completion]:
        ends = {"eos_ids": [eos], "max_prompt_tokens": 40, "prefix": PREFIX}
        return completed(NativeEngine(model, **search, **ends, keep_beams=keep_beams, batch_size=slots), requests)

    # A frequent token serves as EOS, because random weights never produce the real EOS.
    said = Counter(token for made in native(8, NEVER, keep_beams=False) for token in set(made.token_ids))
    eos = min(said, key=lambda token: (abs(said[token] - len(REQUESTS) / 2), token))
    expected = completed(
        TransformersEngine(reference, **search, eos_ids=[eos], pad_id=0, keep_beams=True, batch_size=8)
    )
    assert {beam.finish_reason for made in expected for beam in made.others} == {"stop", "length"}
    for made in expected:
        captions = {(*caption.token_ids, caption.finish_reason) for caption in (made, *made.others)}
        assert len(captions) == num_beams, "all of them differ"
    assert max(beam.caption_tokens for beam in expected[-1].others) <= 5
    for slots in (7, 64):
        assert native(slots, eos, keep_beams=True) == expected
    last = REQUESTS[-8:]  # few, because one slot takes as many steps as all captions have tokens
    assert native(1, eos, keep_beams=True, requests=last) == expected[-8:]
    assert native(7, eos, keep_beams=False) == [replace(made, others=()) for made in expected], "the best is the same"
