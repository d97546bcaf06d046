"""Weights from files as they come."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from tests.checkpoint import write_checkpoint
from tests.fusion.native.conftest import Checkpoint

CPU = torch.device("cpu")


def test_shards_of_safetensors_load_in_the_dtype_that_is_asked_for(checkpoint: Checkpoint) -> None:
    folder = checkpoint(shard="100KB", dtype=torch.bfloat16, num_key_value_heads=2)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    places = load_llama(folder, CPU, torch.float32).parameters()
    assert places.keys() == stored.keys()
    for name, weight in places.items():
        torch.testing.assert_close(weight, stored[name].float(), rtol=0, atol=0)


def test_shards_of_pickled_weights_load_as_capsfus_llama_has_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", BUNDLED_MODEL / "tokenizer.model", vocab_size=321)
    stored = {}
    for file in folder.glob("pytorch_model-*.bin"):
        stored |= torch.load(file, weights_only=True)
    places = load_llama(folder, CPU, torch.float32).parameters()
    for name, weight in places.items():
        torch.testing.assert_close(weight, stored[name], rtol=0, atol=0)


def test_buffers_of_old_checkpoints_and_a_stored_copy_of_a_tied_head_do_no_harm(checkpoint: Checkpoint) -> None:
    folder = checkpoint(tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_llama(folder, CPU, torch.float32)
    assert model.head is model.embedding


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"model.norm.weight": None}, "model.norm.weight is missing"),
        ({"model.extra.weight": torch.zeros(2)}, "unknown tensor model.extra.weight"),
        ({"model.norm.weight": torch.zeros(5)}, r"model.norm.weight has shape \[5\], config.json says \[64\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    checkpoint: Checkpoint, damage: dict[str, torch.Tensor | None], message: str
) -> None:
    folder = checkpoint()
    weights = {**load_file(folder / "model.safetensors"), **damage}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=message):
        load_llama(folder, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_download_that_was_cut_off_is_named(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    if kind == "bin":
        folder = write_checkpoint(tmp_path / "binary", BUNDLED_MODEL / "tokenizer.model", vocab_size=321)
        file = folder / "pytorch_model-00002-of-00003.bin"
    else:
        folder = checkpoint()
        file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{file.name} cannot be read as weights.*Download it again"):
        load_llama(folder, CPU, torch.float32)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",)

    folder = write_checkpoint(tmp_path / "model", BUNDLED_MODEL / "tokenizer.model", vocab_size=321)
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model-00001-of-00003.bin")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_llama(folder, CPU, torch.float32)
    assert not (tmp_path / "owned").exists()


PEAK = """
import json, resource, sys, torch
from pathlib import Path
from capsfusion_tasks.fusion.native.checkpoint import load_llama
load_llama(Path(sys.argv[1]), torch.device("cpu"), torch.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_llama(Path(sys.argv[2]), torch.device("cpu"), torch.float32)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([(peak - before) * 1024, sum(4 * weight.numel() for weight in model.parameters().values())]))
"""


@pytest.mark.slow
def test_loading_needs_little_more_host_memory_than_the_weights(checkpoint: Checkpoint) -> None:
    small = checkpoint()
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 8}
    folder = checkpoint("large", shard="60MB", **sizes)
    done = subprocess.run([sys.executable, "-c", PEAK, small, folder], capture_output=True, text=True, check=True)
    more, weights = json.loads(done.stdout)
    assert weights > 500e6
    assert more < 1.2 * weights
