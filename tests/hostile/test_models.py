"""Model folders that would run code of their own: no engine lets them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.transformers_engine import load_model

ENGINES = {"native": load_llama, "transformers": load_model}


class Bomb:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.made),)


@pytest.fixture(params=ENGINES)
def load(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return lambda folder: ENGINES[request.param](folder, torch.device("cpu"), torch.float32)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy without weights."""
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
    with pytest.raises(InputError, match="wants to run code of its own"):
        load(folder)
    assert not made.exists()
