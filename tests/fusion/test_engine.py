from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Completion, Request, complete_all
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine
from tests.checkpoint import write_checkpoint

REQUESTS = [Request(row, [1, *range(10, 14 + row % 5)]) for row in range(9)]


def engine_of(folder: Path, *, num_beams: int = 3, batch_size: int = 4) -> TransformersEngine:
    return TransformersEngine(
        folder,
        device=torch.device("cpu"),
        dtype=torch.float32,
        num_beams=num_beams,
        max_new_tokens=6,
        eos_id=2,
        pad_id=0,
        batch_size=batch_size,
    )


class Fussy:
    """An engine that cannot take some rows, or too many at once."""

    def __init__(self, poison: set[int] = frozenset(), most: int = 100) -> None:  # type: ignore[assignment]
        self.poison, self.most = poison, most

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        if len(requests) > self.most:
            raise torch.OutOfMemoryError("too many")
        for request in requests:
            if request.row in self.poison:
                raise ValueError("indigestible")
            yield Completion(request.row, [5], "stop", 2)


def test_a_poison_row_is_set_aside_with_its_error_and_its_neighbours_are_fused() -> None:
    completions = {c.row: c for c in complete_all(Fussy(poison={2, 7}), REQUESTS)}
    assert sorted(completions) == list(range(9))
    assert {row for row, c in completions.items() if c.finish_reason == "stop"} == {0, 1, 3, 4, 5, 6, 8}
    assert completions[2].finish_reason == "error: ValueError: indigestible"


def test_out_of_memory_takes_smaller_batches_and_loses_nothing() -> None:
    completions = list(complete_all(Fussy(most=2), REQUESTS))
    assert sorted(c.row for c in completions) == list(range(9))
    assert {c.finish_reason for c in completions} == {"stop"}


def test_a_broken_device_ends_the_run() -> None:
    class Broken:
        def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
            raise torch.AcceleratorError("device-side assert")

    with pytest.raises(torch.AcceleratorError):
        list(complete_all(Broken(), REQUESTS))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_and_batching_do_not_change_a_caption(tiny_model: Path, num_beams: int) -> None:
    batched = engine_of(tiny_model, num_beams=num_beams)
    alone = engine_of(tiny_model, num_beams=num_beams, batch_size=1)
    together = {c.row: c for c in batched.generate(REQUESTS)}
    for request in REQUESTS:
        assert together[request.row] == next(alone.generate([request]))


def test_sampling_defaults_of_a_checkpoint_are_ignored(tiny_model: Path) -> None:
    assert '"do_sample": true' in (tiny_model / "generation_config.json").read_text()
    engine = engine_of(tiny_model)
    assert list(engine.generate(REQUESTS)) == list(engine.generate(REQUESTS))


def test_a_checkpoint_in_capsfus_llamas_layout_loads(tmp_path: Path, llama_tokenizer: LlamaTokenizer) -> None:
    from tests.conftest import SHARED_DATA

    folder = write_checkpoint(tmp_path / "model", SHARED_DATA / "llama_tokenizer.model", vocab_size=32001)
    engine = engine_of(folder)
    assert engine.model.config.vocab_size == 32001
    stored = torch.load(folder / "pytorch_model-00001-of-00003.bin", weights_only=True)
    for name, weight in stored.items():
        torch.testing.assert_close(engine.model.state_dict()[name], weight)
    assert [c.row for c in engine.generate([Request(0, llama_tokenizer.encode("A red car"))])] == [0]


def test_a_checkpoint_with_code_of_its_own_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(InputError, match="auto_map"):
        engine_of(folder)
