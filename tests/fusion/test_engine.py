from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import (
    HOPELESS,
    NOT_FINITE,
    Completion,
    Occupancy,
    Request,
    Requests,
    StaticRequests,
    complete_all,
)
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model
from tests.checkpoint import write_checkpoint

REQUESTS = [Request(row, [1, *range(10, 14 + row % 5)]) for row in range(9)]


def engine_of(folder: Path, *, num_beams: int = 3, batch_size: int = 4) -> TransformersEngine:
    return TransformersEngine(
        load_model(folder, torch.device("cpu"), torch.float32),
        num_beams=num_beams,
        max_new_tokens=6,
        eos_ids=[2],
        pad_id=0,
        batch_size=batch_size,
    )


class Fussy:
    """An engine that fails if a batch has a row of ``poison``, or more than ``most`` rows."""

    def __init__(self, poison: Iterable[int] = (), *, batch_size: int = 4, most: int = 100) -> None:
        self.poison, self.batch_size, self.most = set(poison), batch_size, most
        self.occupancy = Occupancy()

    def generate(self, requests: Requests) -> Iterator[Completion]:
        while batch := requests.take(self.batch_size, wait=True):
            if len(batch) > self.most:
                raise torch.OutOfMemoryError("too many")
            if bad := self.poison & {request.row for request in batch}:
                raise ValueError(f"indigestible: {sorted(bad)}")
            for request in batch:
                yield Completion(request.row, [5], "stop", 2)

    def shrink(self) -> bool:
        if self.batch_size == 1:
            return False
        self.batch_size //= 2
        return True


def test_a_poison_row_is_set_aside_with_its_error_and_its_neighbours_are_fused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    completions = {c.row: c for c in complete_all(Fussy(poison={2, 7}), StaticRequests(REQUESTS))}
    assert sorted(completions) == list(range(9))
    assert {row for row, c in completions.items() if c.finish_reason == "stop"} == {0, 1, 3, 4, 5, 6, 8}
    assert completions[2].finish_reason == "error: ValueError: indigestible: [2]"
    assert "row 3 of the input gets no caption: ValueError: indigestible: [2]" in caplog.messages  # counted from 1


def test_each_row_comes_back_once_whatever_is_poison() -> None:
    for poison in [set(range(9)), {0}, {8}, {3, 4}]:
        rows = [completion.row for completion in complete_all(Fussy(poison), StaticRequests(REQUESTS))]
        assert sorted(rows) == list(range(9))


def test_an_engine_that_can_fuse_nothing_ends_the_run_with_its_error_and_no_row_counts_as_tried() -> None:
    requests = [Request(row, [3, 4]) for row in range(3 * HOPELESS)]
    found: list[Completion] = []
    with pytest.raises(ValueError, match="indigestible"):
        found += complete_all(Fussy(range(3 * HOPELESS)), StaticRequests(requests))
    assert found == []
    # If one row between the failing rows is fused, the fault is in the rows, not in the engine, and the run goes on.
    requests, good = requests[: 2 * HOPELESS - 1], HOPELESS - 1
    completions = complete_all(Fussy(set(range(len(requests))) - {good}), StaticRequests(requests))
    assert sorted(completion.row for completion in completions) == list(range(len(requests)))


class NotFinite(Fussy):
    """An engine whose scores are NaN for the rows of ``poison``."""

    def generate(self, requests: Requests) -> Iterator[Completion]:
        while batch := requests.take(self.batch_size, wait=True):
            for request in batch:
                bad = request.row in self.poison
                yield Completion(request.row, [], NOT_FINITE, 0) if bad else Completion(request.row, [5], "stop", 2)


def test_many_rows_in_a_row_whose_scores_are_not_finite_end_the_run_as_bad_input() -> None:
    requests = [Request(row, [3, 4]) for row in range(3 * HOPELESS)]
    found: list[Completion] = []
    with pytest.raises(InputError, match=r"of 16 consecutive rows, up to row 21, are not finite .* are damaged"):
        found += complete_all(NotFinite(range(5, 3 * HOPELESS)), StaticRequests(requests))
    assert [completion.row for completion in found] == [0, 1, 2, 3, 4]
    few = set(range(len(requests))) - {HOPELESS - 1, 2 * HOPELESS - 1}
    completions = {
        c.row: c.finish_reason for c in complete_all(NotFinite(few), StaticRequests(requests[: 2 * HOPELESS]))
    }
    assert {row for row, reason in completions.items() if reason == "stop"} == {HOPELESS - 1, 2 * HOPELESS - 1}
    assert len(completions) == 2 * HOPELESS


def test_rows_are_taken_as_there_is_room_not_all_at_once() -> None:
    requests = StaticRequests(REQUESTS)
    assert next(complete_all(Fussy(), requests)).row == 0
    assert len(requests.take(100)) == 5


def test_out_of_memory_takes_fewer_rows_at_once_and_loses_nothing() -> None:
    engine = Fussy(batch_size=8, most=3)
    completions = list(complete_all(engine, StaticRequests(REQUESTS)))
    assert sorted(c.row for c in completions) == list(range(9))
    assert {c.finish_reason for c in completions} == {"stop"}
    assert engine.batch_size == 2


def test_a_row_that_is_too_large_even_alone_is_set_aside() -> None:
    completions = list(complete_all(Fussy(batch_size=2, most=0), StaticRequests(REQUESTS[:2])))
    assert [c.finish_reason for c in completions] == ["error: OutOfMemoryError: too many"] * 2


def test_an_error_of_the_source_is_not_taken_for_a_poison_row() -> None:
    class Broken(StaticRequests):
        def take(self, most: int, *, wait: bool = True) -> list[Request]:
            if taken := super().take(most, wait=wait):
                return taken
            raise OSError("the storage is gone")

    with pytest.raises(OSError, match="the storage is gone"):
        list(complete_all(Fussy(), Broken(REQUESTS[:5])))


def test_an_engine_that_loses_rows_is_found_out() -> None:
    class Forgetful(Fussy):
        def generate(self, requests: Requests) -> Iterator[Completion]:
            return (c for c in super().generate(requests) if c.row != 3)

    with pytest.raises(RuntimeError, match="without the captions of 1 rows"):
        list(complete_all(Forgetful(), StaticRequests(REQUESTS)))


def test_a_broken_device_ends_the_run() -> None:
    class BrokenDevice(Fussy):
        def generate(self, requests: Requests) -> Iterator[Completion]:
            raise torch.AcceleratorError("device-side assert")

    with pytest.raises(torch.AcceleratorError):
        list(complete_all(BrokenDevice(), StaticRequests(REQUESTS)))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_row_with_a_limit_of_its_own_ends_there(tiny_model: Path, num_beams: int) -> None:
    engine = engine_of(tiny_model, num_beams=num_beams)
    limited = [Request(request.row, request.prompt, 1 + request.row % 7) for request in REQUESTS]
    counts = {c.row: c.caption_tokens for c in engine.generate(StaticRequests(limited)) if c.finish_reason == "length"}
    assert counts == {row: min(6, 1 + row % 7) for row in counts}
    assert len(counts) > 6


@pytest.mark.parametrize("num_beams", [1, 3])
def test_padding_and_batching_do_not_change_a_caption(tiny_model: Path, num_beams: int) -> None:
    batched = engine_of(tiny_model, num_beams=num_beams)
    alone = engine_of(tiny_model, num_beams=num_beams, batch_size=1)
    together = {c.row: c for c in batched.generate(StaticRequests(REQUESTS))}
    for request in REQUESTS:
        assert together[request.row] == next(alone.generate(StaticRequests([request])))


def test_sampling_defaults_of_a_checkpoint_are_ignored(tiny_model: Path) -> None:
    assert '"do_sample": true' in (tiny_model / "generation_config.json").read_text()
    engine = engine_of(tiny_model)
    assert list(engine.generate(StaticRequests(REQUESTS))) == list(engine.generate(StaticRequests(REQUESTS)))


def test_a_checkpoint_in_capsfus_llamas_layout_loads(tmp_path: Path, llama_tokenizer: LlamaTokenizer) -> None:
    from tests.conftest import SHARED_DATA

    folder = write_checkpoint(tmp_path / "model", SHARED_DATA / "llama_tokenizer.model", vocab_size=32001)
    engine = engine_of(folder)
    assert engine.model.config.vocab_size == 32001
    stored = torch.load(folder / "pytorch_model-00001-of-00003.bin", weights_only=True)
    for name, weight in stored.items():
        torch.testing.assert_close(engine.model.state_dict()[name], weight)
    assert [c.row for c in engine.generate(StaticRequests([Request(0, llama_tokenizer.encode("A red car"))]))] == [0]


def test_a_checkpoint_with_code_of_its_own_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(InputError, match="auto_map"):
        engine_of(folder)
