from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import file_digests
from capsfusion_tasks.fusion.identity import decide, locate
from capsfusion_tasks.fusion.model_files import model_folder
from capsfusion_tasks.settings import load_settings


def fusion_id(model: Path, **options: object) -> str:
    return decide(load_settings(model=str(model), **options)).fusion_id


def test_a_copy_of_a_model_elsewhere_is_the_same_fusion(tiny_model: Path, tmp_path: Path) -> None:
    assert fusion_id(shutil.copytree(tiny_model, tmp_path / "other" / "tiny")) == fusion_id(tiny_model)


@pytest.mark.parametrize("model", [".", "../tiny", "../x/../tiny"])
def test_a_model_in_a_folder_has_the_last_two_parts_of_its_path_as_name(
    tiny_model: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model)
    (tiny_model.parent / "x").mkdir(exist_ok=True)
    assert decide(load_settings(model=model)).model == f"{tiny_model.parent.name}/tiny"


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 1}, {"max_new_tokens": 60}, {"dtype": "bfloat16"}, {"keep_beams": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_shapes_the_captions_makes_another_fusion(tiny_model: Path, options: dict[str, object]) -> None:
    assert fusion_id(tiny_model, **options) != fusion_id(tiny_model)


def test_what_only_changes_the_speed_does_not(tiny_model: Path) -> None:
    assert fusion_id(tiny_model, batch_size=7, chunk_rows=3, nproc_per_node=2) == fusion_id(tiny_model)


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16")])
def test_auto_means_a_dtype_that_is_known_at_planning(tiny_model: Path, device: str, dtype: str) -> None:
    settings = load_settings(model=str(tiny_model), device=device)
    assert decide(settings).dtype == dtype
    assert fusion_id(tiny_model, device=device) == fusion_id(tiny_model, dtype=dtype)


def test_the_toy_model_is_for_cpus_and_any_other_for_gpus(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPSFUSION_DEVICE")
    assert decide(load_settings()).dtype == "float32"
    assert decide(load_settings(model=str(tiny_model))).dtype == "bfloat16"


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0])
def test_weights_that_differ_in_one_byte_make_another_fusion(tiny_model: Path, tmp_path: Path, offset: float) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = folder / "pytorch_model-00002-of-00003.bin"
    data = bytearray(weights.read_bytes())
    data[int(offset * (len(data) - 1))] ^= 1
    weights.write_bytes(data)
    assert fusion_id(folder) != fusion_id(tiny_model)


def test_weights_are_read_once_until_they_change(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = shutil.copytree(tiny_model, tmp_path / "model"), list[str]()
    digest = file_digests._digest
    monkeypatch.setattr(file_digests, "_digest", lambda file: read.append(file.name) or digest(file))
    before = fusion_id(folder, home=tmp_path / "home")
    assert len(read) == 3
    assert fusion_id(folder, home=tmp_path / "home") == before
    assert len(read) == 3
    weights = folder / "pytorch_model-00002-of-00003.bin"
    times = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # changes the content, but not the size and modification time
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fusion_id(folder, home=tmp_path / "home") != before
    assert read[3:] == [weights.name]


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": 1}', '{"a": [[1], {}]}', "{"])
def test_a_damaged_cache_of_digests_is_made_anew(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    cache, [weights] = tmp_path / "digests.json", [tiny_model / "pytorch_model-00002-of-00003.bin"]
    cache.write_text(damage.replace('"a"', json.dumps(str(weights.resolve()))))
    digest = hashlib.blake2b(weights.read_bytes(), digest_size=16).hexdigest()
    assert file_digests.content_digests([weights], cache) == {weights: digest}
    assert json.loads(cache.read_text())[str(weights.resolve())][-1] == digest


def test_tasks_that_write_the_cache_of_digests_at_the_same_time_keep_those_of_each_other(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = sorted(tiny_model.glob("*.bin"))
    cache, digest = tmp_path / "home" / "digests.json", file_digests._digest
    cache.parent.mkdir()
    # In containers, the processes of two tasks often have the same id, and both may write into one folder.
    written_by_another = cache.with_name(f"{cache.name}.{os.getpid()}")
    written_by_another.write_text("{")

    def slow(file: Path) -> str:
        if file == first.resolve():
            file_digests.content_digests([second], cache)
        return digest(file)

    monkeypatch.setattr(file_digests, "_digest", slow)
    file_digests.content_digests([first], cache)
    assert json.loads(cache.read_text()).keys() == {str(first.resolve()), str(second.resolve())}
    assert written_by_another.read_text() == "{"
    assert sorted(cache.parent.iterdir()) == [cache, written_by_another]


def test_a_home_that_cannot_be_written_costs_the_cache_of_digests_only(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(logging.getLogger("capsfusion_tasks"), "propagate", True)
    assert fusion_id(tiny_model, home=tmp_path / "file" / "home") == fusion_id(tiny_model)
    assert "cannot keep the digests of the weights" in caplog.text
    assert "Not a directory" in caplog.text


def test_a_worker_takes_the_planned_model_or_its_own_copy_of_it_and_no_other(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "planned")
    settings = load_settings(home=tmp_path / "home")  # a worker's settings, with the bundled model
    decoding = decide(load_settings(model=str(folder), home=tmp_path / "home"))
    assert locate(decoding, settings) == str(folder)
    copy = shutil.move(folder, tmp_path / "copy")
    assert locate(decoding, settings.model_copy(update={"model": str(copy)})) == str(copy)
    with pytest.raises(InputError, match=f"there is no folder {folder}; .*{BUNDLED_MODEL} has other files now. Put"):
        locate(decoding, settings)
    assert locate(decide(settings), settings.model_copy(update={"model": str(copy)})) == str(BUNDLED_MODEL)


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
    commit, cache = "c" * 40, tmp_path / "models--team--model"  # the hub's cache names folders like this
    shutil.copytree(tiny_model, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = load_settings(model="team/model", home=tmp_path / "home")
    assert decide(settings) == decide(settings.model_copy(update={"model": "team/model@main"}))
    assert locate(decide(settings), load_settings()) == f"team/model@{commit}"
    assert model_folder(f"team/model@{commit}") == cache / "snapshots" / commit


@pytest.mark.parametrize(
    ("weights", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            [
                "model-1.safetensors",
                "model.safetensors.index.json",
                "pytorch_model-1.bin",
                "pytorch_model.bin.index.json",
            ],
            ["model-1.safetensors", "model.safetensors.index.json", "pytorch_model.bin.index.json"],
        ),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_weights_are_downloaded_in_one_format_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: list[str], fetched: list[str]
) -> None:
    snapshot = tmp_path / ("c" * 40)
    snapshot.mkdir()

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (name, revision) in [("team/model", "v1"), ("team/model", snapshot.name)]
        for file in filter_repo_objects(["config.json", "tokenizer.json", *weights], allow_patterns=allow_patterns):
            content = json.dumps({"weight_map": {"x": "model-1.safetensors"}}).encode() if "index" in file else b"{}"
            (snapshot / file).write_bytes(save({}) if file.endswith(".safetensors") else content)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert model_folder("team/model@v1") == snapshot
    assert sorted(os.listdir(snapshot)) == sorted(["config.json", "tokenizer.json", *fetched])


def test_a_name_that_is_no_folder_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(NotReadyError, match=r"not on this machine, and the hub does not answer .*check the network"):
        model_folder("nobody/no-such-model")
