"""Tests loading weights from files in the layouts of real checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.tensors import EMBEDDING, HEAD
from capsfusion_tasks.fusion.transformers_engine import load_model
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


LOADERS = {"native": load_llama, "transformers": load_model}


@pytest.fixture(params=LOADERS)
def load(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return lambda folder: LOADERS[request.param](folder, CPU, torch.float32)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


QUANTISED = {"model.layers.0.mlp.up_proj.qweight": torch.zeros(2, dtype=torch.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {n: t for n, t in w.items() if n != "model.norm.weight"}, "model.norm.weight is missing$"),
        (lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"}, "lm_head.weight is missing$"),
        (lambda w: w | {"model.extra.weight": torch.zeros(2)}, "unknown tensor model.extra.weight$"),
        (lambda w: w | {f"model.layers.3.{n}": torch.zeros(2) for n in "abcdef"}, "layers.3.a; .* and 1 more$"),
        (
            lambda w: w | {"model.norm.weight": torch.zeros(5)},
            r"model.norm.weight has shape \[5\], config.json says \[64\]$",
        ),
        (
            lambda w: {f"module.{n}": t for n, t in w.items()},
            r"tensors begin with 'module\.': save .* without this prefix",
        ),
        (lambda w: w | QUANTISED, "up_proj.qweight. The weights are quantised: give the model in bfloat16"),
        (lambda w: {n: (50 * t).to(torch.int8) for n, t in w.items()}, "is quantised: .* has dtype I8. Give the model"),
        (lambda w: {n: t.to(torch.float8_e4m3fn) for n, t in w.items()}, "is quantised: .* has dtype F8_E4M3. Give"),
        (
            lambda w: w | {"model.layers.1.mlp.up_proj.weight": torch.full((96, 64), float("nan"))},
            "are not finite: 1 of 30 tensors have NaN or infinite numbers, such as model.layers.1.mlp.up_proj.weight",
        ),
        (lambda w: w | {"model.norm.weight": torch.tensor([float("-inf")] + [1.0] * 63)}, "not finite: 1 of 30"),
    ],
    ids=["missing", "no head", "surplus", "a layer more", "shape", "prefix", "qweight", "int8", "fp8", "NaN", "inf"],
)
def test_weights_that_do_not_fit_are_named(
    checkpoint: Checkpoint,
    load: Callable[[Path], object],
    capfd: pytest.CaptureFixture[str],
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    message: str,
) -> None:
    folder = rewrite(checkpoint(), change)
    capfd.readouterr()
    with pytest.raises(InputError, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_a_float8_model_of_weights_that_are_not_finite_is_refused(checkpoint: Checkpoint) -> None:
    nan = {"model.layers.1.mlp.up_proj.weight": torch.full((96, 64), float("nan"))}
    folder = rewrite(checkpoint(), lambda weights: weights | nan)
    with pytest.raises(InputError, match=r"not finite: 1 of 30 .*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_llama(folder, CPU, torch.float8_e4m3fn)


def test_sizes_that_the_weights_do_not_have_take_no_memory(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    config = json.loads((folder / "config.json").read_text())
    wrong = config | {"hidden_size": 1 << 24, "intermediate_size": 1 << 24, "vocab_size": 1 << 24}
    (folder / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"has shape \[321, 64\], config.json says \[16777216, 16777216\]"):
        load_llama(folder, CPU, torch.float32)


@pytest.mark.parametrize(
    "what", [{"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, [torch.zeros(1)]], ids=["dict", "list"]
)
def test_a_training_checkpoint_is_refused(checkpoint: Checkpoint, load: Callable[[Path], object], what: object) -> None:
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    torch.save(what, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"bin holds more than a model's weights \((state_dict, epoch|list)"):
        load(folder)


def _old_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def _consolidated_and_adapter(folder: Path) -> None:
    for name in ("consolidated.safetensors", "model-00009-of-00009.safetensors", "adapter_model.safetensors"):
        save_file({"x": torch.zeros(1)}, folder / name)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "nobody/nothing"}')


@pytest.mark.parametrize(
    "change",
    [
        _old_pickle,
        _consolidated_and_adapter,
        lambda folder: rewrite(folder, lambda w: {n.removeprefix("model."): t for n, t in w.items()}),
        lambda folder: rewrite(folder, lambda w: {f"model.{n}": t for n, t in w.items()}),
        lambda folder: rewrite(folder, lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}),
    ],
    ids=["a pickle of before torch 1.6", "other files beside", "without model.", "model. twice", "rotary buffers"],
)
def test_folders_that_transformers_loads_are_loaded(checkpoint: Checkpoint, change: Callable[[Path], object]) -> None:
    folder = checkpoint()
    expected = load_file(folder / "model.safetensors")
    change(folder)
    reference, places = load_model(folder, CPU, torch.float32).state_dict(), load_llama(folder, CPU, torch.float32)
    for name, weight in places.parameters().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)
        torch.testing.assert_close(reference[name], expected[name], rtol=0, atol=0)


def test_the_reference_leaves_an_adapter_alone_where_peft_is_there(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint()
    _consolidated_and_adapter(folder)
    for module in ("models.auto.auto_factory", "integrations.peft"):
        monkeypatch.setattr(f"transformers.{module}.is_peft_available", lambda: True)
    load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("kept", ["both", "embedding", "head"])
def test_a_tied_head_is_stored_under_either_name_or_both(
    checkpoint: Checkpoint, load: Callable[[Path], object], kept: str
) -> None:
    folder = checkpoint(tie_word_embeddings=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    names = {"both": {HEAD, EMBEDDING}, "embedding": {EMBEDDING}, "head": {HEAD}}[kept]
    rewrite(
        folder, lambda w: {n: t for n, t in w.items() if n != EMBEDDING} | {name: embedding.clone() for name in names}
    )
    model = load(folder)
    if isinstance(model, Llama):
        assert model.head is model.embedding
    weights = model.parameters() if isinstance(model, Llama) else model.state_dict()  # type: ignore[attr-defined]
    torch.testing.assert_close(weights[EMBEDDING], embedding, rtol=0, atol=0)
    torch.testing.assert_close(weights[HEAD], embedding, rtol=0, atol=0)


def test_a_tensor_that_is_there_twice_is_refused(checkpoint: Checkpoint) -> None:
    folder = rewrite(checkpoint(), lambda weights: weights | {"norm.weight": torch.zeros(64)})
    with pytest.raises(InputError, match=r"model\.norm\.weight is stored twice"):
        load_llama(folder, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_download_that_was_cut_off_is_named(
    checkpoint: Checkpoint, load: Callable[[Path], object], tmp_path: Path, kind: str
) -> None:
    if kind == "bin":
        folder = write_checkpoint(tmp_path / "binary", BUNDLED_MODEL / "tokenizer.model", vocab_size=321)
        file = folder / "pytorch_model-00002-of-00003.bin"
    else:
        folder = checkpoint()
        file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=f"{file.name} cannot be read as weights.*Download it again"):
        load(folder)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'owned')!r}, 'w')",)

    folder = write_checkpoint(tmp_path / "model", BUNDLED_MODEL / "tokenizer.model", vocab_size=321)
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model-00001-of-00003.bin")
    with pytest.raises(InputError, match="cannot be read as weights"):
        load_llama(folder, CPU, torch.float32)
    assert not (tmp_path / "owned").exists()


# Loads a small model, then a large one, as a rank does. Prints by how much the second raised the peak of memory, how
# much memory its weights take, and whether transformers is imported.
LOAD = """
import json, resource, sys, torch
from pathlib import Path
import capsfusion_tasks.fusion.worker
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
load_llama(Path(sys.argv[1]), torch.device("cpu"), torch.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = load_llama(Path(sys.argv[2]), torch.device("cpu"), torch.float32)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = sum(4 * weight.numel() for weight in model.parameters().values())
print(json.dumps([(peak - before) * 1024, weights, "transformers" in sys.modules]))
"""


@pytest.mark.slow
def test_loading_needs_little_more_host_memory_than_the_weights_and_no_transformers(checkpoint: Checkpoint) -> None:
    small = checkpoint()
    large = small.with_name("large")
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8}
    with torch.device("meta"):  # without numbers, because it would take a second to draw random ones
        model = LlamaForCausalLM(LlamaConfig(vocab_size=321, max_position_embeddings=128, **sizes))
    for weight in model.to_empty(device="cpu").parameters():
        weight.data.zero_()
    model.save_pretrained(large, max_shard_size="30MB")
    done = subprocess.run([sys.executable, "-c", LOAD, small, large], capture_output=True, text=True, check=True)
    more, weights, with_transformers = json.loads(done.stdout)
    assert weights > 250e6
    assert more < 1.2 * weights
    assert not with_transformers, "the native engine starts without transformers"
