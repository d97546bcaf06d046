"""Tests `python -m benchmarks.random_checkpoint` with a tiny model."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.random_checkpoint import CAPTION_TOKENS, NEAR_ENOUGH, SHARDS, write_checkpoint
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.model_files import model_folder, weight_files
from capsfusion_tasks.fusion.native.checkpoint import load_llama


def test_a_random_checkpoint_loads_and_its_captions_end_where_published_ones_do(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    tokens = write_checkpoint(tmp_path / "made", "tiny", BUNDLED_MODEL / "tokenizer.model", read_pairs(None, 8), cpu)
    assert abs(tokens - CAPTION_TOKENS) <= NEAR_ENOUGH
    assert len(weight_files(model_folder(str(tmp_path / "made")))) == SHARDS
    model = load_llama(tmp_path / "made", cpu, torch.float32)
    head = model.parameters()["lm_head.weight"]
    # The files have the scaled row for EOS, which makes captions end at the wanted length.
    assert head[2].norm() > 1.2 * head[3].norm()
