from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import identify
from capsfusion_tasks.fusion.model_files import model_folder, pinned
from capsfusion_tasks.settings import load_settings


def fusion_id(model: Path, **options: object) -> str:
    return identify(load_settings(model=str(model), **options)).fusion_id


def test_a_copy_of_a_model_elsewhere_is_the_same_fusion(tiny_model: Path, tmp_path: Path) -> None:
    assert fusion_id(shutil.copytree(tiny_model, tmp_path / "other" / "tiny")) == fusion_id(tiny_model)


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 1}, {"max_new_tokens": 60}, {"dtype": "bfloat16"}],
    ids=lambda options: next(iter(options)),
)
def test_what_shapes_the_captions_makes_another_fusion(tiny_model: Path, options: dict[str, object]) -> None:
    assert fusion_id(tiny_model, **options) != fusion_id(tiny_model)


def test_what_only_changes_the_speed_does_not(tiny_model: Path) -> None:
    assert fusion_id(tiny_model, batch_size=7, chunk_rows=3, nproc_per_node=2) == fusion_id(tiny_model)


def test_other_weights_of_the_same_size_make_another_fusion(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = folder / "pytorch_model-00002-of-00003.bin"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    assert fusion_id(folder) != fusion_id(tiny_model)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.model"])
def test_a_folder_that_lacks_a_file_is_refused(tiny_model: Path, tmp_path: Path, missing: str) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"has no {missing}"):
        model_folder(str(folder))


def test_a_folder_without_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.bin*"))
    with pytest.raises(InputError, match="has no weights"):
        model_folder(str(folder))


def test_ranks_get_the_commit_that_a_hub_id_meant_when_they_were_started(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, cache = "c" * 40, tmp_path / "models--team--model"  # the hub's cache, as a download leaves it
    shutil.copytree(tiny_model, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pinned("team/model") == pinned("team/model@main") == f"team/model@{commit}"
    assert model_folder(pinned("team/model")) == cache / "snapshots" / commit
    assert pinned(str(tiny_model)) == str(tiny_model)


def test_a_name_that_is_no_folder_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"the hub says: .*check the name and HF_TOKEN"):
        model_folder("nobody/no-such-model")
