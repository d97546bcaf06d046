"""Both engines refuse model folders that contain code to run, or that would make them write nonsense captions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.files import fuse_file
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.transformers_engine import load_model
from capsfusion_tasks.settings import load_settings

ENGINES = {"native": load_llama, "transformers": load_model}


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.fixture(params=ENGINES)
def load(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return lambda folder: ENGINES[request.param](folder, torch.device("cpu"), torch.float32)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, without its weights."""
    no_weights = shutil.ignore_patterns("*.safetensors", "*.bin")
    return Path(shutil.copytree(tiny_model, tmp_path / "model", ignore=no_weights))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_weights_that_are_a_program_are_refused_and_not_run(
    load: Callable[[Path], object], model: Path, tmp_path: Path, zipped: bool
) -> None:
    made = tmp_path / "made"
    weights = {"model.embed_tokens.weight": torch.zeros(1), "x": Bomb(made)}
    torch.save(weights, model / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"pytorch_model\.bin|weights"):
        load(model)
    assert not made.exists()
    torch.load(model / "pytorch_model.bin", weights_only=False)
    assert made.exists(), "it would have run"


def test_safetensors_are_taken_where_both_are_there(
    load: Callable[[Path], object], tiny_model: Path, tmp_path: Path
) -> None:
    both, made = tmp_path / "both", tmp_path / "made"
    LlamaForCausalLM.from_pretrained(tiny_model).save_pretrained(both)
    torch.save({"x": Bomb(made)}, both / "pytorch_model.bin")
    load(both)
    assert not made.exists()


@pytest.mark.parametrize("wanted", [{}, {"model_type": "evil"}], ids=["a LLaMA", "another model"])
def test_code_in_the_folder_is_refused_and_not_run(
    load: Callable[[Path], object], tiny_model: Path, tmp_path: Path, wanted: dict[str, str]
) -> None:
    folder, made = Path(shutil.copytree(tiny_model, tmp_path / "code")), tmp_path / "made"
    code = {"AutoConfig": "modeling.Evil", "AutoModelForCausalLM": "modeling.Evil"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | wanted | {"auto_map": code}))
    (folder / "modeling.py").write_text(f"import os\nos.mkdir({str(made)!r})\nclass Evil: pass\n")
    with pytest.raises(InputError, match="needs Python code"):
        load(folder)
    assert not made.exists()


NAN = {"model.norm.weight": torch.full((32,), float("nan"))}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: {n: t for n, t in weights.items() if "up_proj" not in n}, "up_proj.weight is missing"),
        (lambda weights: weights | NAN, "are not finite"),
        (lambda weights: {n: t.to(torch.int8) for n, t in weights.items()}, "is quantised"),
    ],
    ids=["missing", "NaN", "int8"],
)
def test_a_file_is_not_fused_with_weights_that_are_not_the_models(
    model: Path,
    tiny_model: Path,
    tmp_path: Path,
    engine: str,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    reason: str,
) -> None:
    weights = LlamaForCausalLM.from_pretrained(tiny_model).state_dict()
    save_file({name: tensor.clone() for name, tensor in change(weights).items()}, model / "model.safetensors")
    rows = [{"laion_2b": f"photo {n}", "laion_coco": "A photo."} for n in range(20)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = load_settings(model=str(model), engine=engine, num_beams=1, max_new_tokens=2, nproc_per_node=1)
    with pytest.raises(InputError, match=reason):
        fuse_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl", settings)
    assert not (tmp_path / "out.jsonl").exists()
