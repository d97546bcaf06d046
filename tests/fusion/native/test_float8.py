"""Tests the float8 model's precision, and the error on devices that cannot run the model.

The products are computed on the CPU, which gives the same results as a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import save_file

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Request, StaticRequests
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.native.float8 import Float8, quantise
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.worker import load_engine
from capsfusion_tasks.settings import load_settings
from tests.fusion.native.conftest import Checkpoint

CPU = torch.device("cpu")
FLOAT8 = torch.float8_e4m3fn


def test_a_row_of_small_numbers_keeps_its_precision_beside_a_row_of_large_ones() -> None:
    x = torch.tensor([[1e-4, -3e-4, 2e-4], [300.0, -500.0, 0.5], [0.0, 0.0, 0.0]])
    got = quantise(x)
    back = got.values.float() * got.scales
    # The tolerance is float8's rounding error: 3 bits of mantissa, rounded by up to half of the last bit.
    torch.testing.assert_close(back[:, :2], x[:, :2], rtol=0.07, atol=0)
    assert got.values[1, 1].item() == -448.0
    assert back[2].eq(0).all()


def test_each_row_of_a_checkpoints_tensors_gets_its_scale_in_the_merged_matrices(checkpoint: Checkpoint) -> None:
    folder = checkpoint(num_key_value_heads=2)
    exact, small = load_llama(folder, CPU, torch.float32), load_llama(folder, CPU, FLOAT8)
    for name in ("qkv", "out", "gate_up", "down"):
        for whole, quantised in zip(getattr(exact, name), cast(list[Float8], getattr(small, name)), strict=True):
            assert quantised.scales.shape == (len(whole), 1)
            torch.testing.assert_close(quantised.values.float() * quantised.scales, whole, rtol=0.07, atol=4e-3)
    assert small.embedding.dtype == small.norm.dtype == small.dtype == torch.bfloat16


def test_an_engine_over_it_gives_every_row_its_caption(checkpoint: Checkpoint) -> None:
    model = load_llama(checkpoint(), CPU, FLOAT8)
    requests = [Request(row, [1, 300, 5 + row], max_new_tokens=4) for row in range(6)]
    engine = NativeEngine(
        model, num_beams=3, max_new_tokens=4, max_prompt_tokens=8, eos_ids=[321], prefix=[1, 300], batch_size=4
    )
    assert {c.row: c.caption_tokens for c in engine.generate(StaticRequests(requests))} == dict.fromkeys(range(6), 4)


def test_a_device_without_float8_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.model"):
        (tmp_path / name).write_bytes((BUNDLED_MODEL / name).read_bytes())
    # The file has no tensors: loading them would raise a different error.
    save_file({}, tmp_path / "model.safetensors")
    settings = load_settings(dtype="float8", home=tmp_path / "home")
    job = FuseJob.of(settings, decide(settings), staging="", pairs="", chunks="")
    job = job.model_copy(update={"model": str(tmp_path)})
    with pytest.raises(InputError, match=r"compute capability 8.9 or higher.*torch finds no GPU.*--dtype bfloat16"):
        load_engine(job, LlamaTokenizer(tmp_path / "tokenizer.model"), CPU)


def test_a_model_of_odd_sizes_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"multiples of 16.* 200 x 64: choose --dtype bfloat16"):
        load_llama(checkpoint(intermediate_size=100), CPU, FLOAT8)
