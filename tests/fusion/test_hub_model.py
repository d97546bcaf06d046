"""Models of a local hub: which errors of a download may pass, so that a task is tried again."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import close_session
from safetensors.numpy import save

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.model_files import model_folder
from tests.shards.web_server import Fault, Hub

NAME = "team/model"
FILES = {file: (BUNDLED_MODEL / file).read_bytes() for file in ("config.json", "tokenizer.model", "model.safetensors")}
EMPTY = save({})  # weights without tensors
INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
SHARDS = {"model.safetensors.index.json": INDEX, "model-1.safetensors": EMPTY, "model-2.safetensors": EMPTY}
OUTAGE = Fault(520)  # a status with which huggingface_hub does not repeat a request


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local hub, with an empty cache. Clients repeat requests without a pause."""
    server = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    with server.running():
        yield server
    close_session()


def commit(hub: Hub, files: dict[str, bytes]) -> str:
    return f"{NAME}@{hub.commit(NAME, datetime(2026, 11, 10, tzinfo=UTC), files)}"


def storage_of(hub: Hub, content: bytes) -> str:
    """The path from which the hub serves a file with ``content``."""
    return next(path for path, file in hub.files.items() if file.content == content)


def test_a_model_is_downloaded_once(hub: Hub) -> None:
    model = commit(hub, FILES)
    folder = model_folder(NAME)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    hub.requests.clear()
    assert model_folder(model) == folder
    assert hub.requests == []


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_download_that_fails_for_some_time_may_be_tried_again(hub: Hub, status: int) -> None:
    model = commit(hub, FILES)
    weights = storage_of(hub, FILES["model.safetensors"])
    hub.faults[f"{weights}!"] = [Fault(status)]
    with pytest.raises(NotReadyError, match=rf"the model {model} is not on this machine, .*{status}.*: check the net"):
        model_folder(model)
    hub.faults.clear()
    assert (model_folder(model) / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_hub_that_accepts_a_request_and_never_answers_may_be_tried_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capsfusion_tasks.hub_client._READ", 0.05)
    model = commit(hub, FILES)
    hub.faults |= {f"{path}!": [Fault(silent=True)] for path in api_paths(model)}
    with pytest.raises(NotReadyError, match=rf"the model {model} is not on this machine"):
        model_folder(model)


def test_a_download_that_is_cut_may_be_tried_again(hub: Hub) -> None:
    model = commit(hub, FILES)
    hub.faults[f"{storage_of(hub, FILES['model.safetensors'])}!"] = [Fault(cut_after=100)]
    with pytest.raises(NotReadyError, match=rf"the model {model} is not on this machine"):
        model_folder(model)


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_the_hub_refuses_is_not_tried_again(hub: Hub, status: int) -> None:
    model = commit(hub, FILES)
    hub.faults[f"{storage_of(hub, FILES['model.safetensors'])}!"] = [Fault(status)]
    with pytest.raises(InputError, match=rf"no model {model}: .*the hub says: .*{status}.*check the name and HF_TOKEN"):
        model_folder(model)


@pytest.mark.parametrize("model", ["nobody/nothing", f"{NAME}@no-revision", "a--b/c"])
def test_a_model_that_the_hub_does_not_have_is_not_tried_again(hub: Hub, model: str) -> None:
    commit(hub, FILES)
    with pytest.raises(InputError, match=f"no model {model}: there is no such folder, and the hub says: "):
        model_folder(model)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), NotReadyError, "no space for the model team/model in /"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), NotReadyError, "does not answer .*reset by peer"),
        (TimeoutError("timed out"), NotReadyError, "does not answer .timed out"),
        (PermissionError(errno.EACCES, "Permission denied"), InputError, "Permission denied"),
    ],
)
def test_errors_of_disks_and_networks_may_pass_but_missing_rights_stay(
    monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[Exception], message: str
) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(expected, match=message):
        model_folder(NAME)


def api_paths(model: str) -> list[str]:
    oid = model.partition("@")[2]
    return [f"/api/models/{NAME}/{kind}/{oid}" for kind in ("revision", "tree")]


def cached(model: str, cache: Path, *files: str) -> Path:
    """Write ``files`` to the cache, without the listing of all files that newer versions of huggingface_hub keep."""
    name, _, oid = model.partition("@")
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots" / oid
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_bytes(FILES[file])
    return folder


@pytest.mark.parametrize("weights", [{"model.safetensors": EMPTY}, SHARDS, {"pytorch_model.bin": b"x"}])
def test_a_hub_that_fails_after_planning_is_no_model_without_weights(
    hub: Hub, tmp_path: Path, weights: dict[str, bytes]
) -> None:
    small = ("config.json", "tokenizer.model")
    model = commit(hub, {**{name: FILES[name] for name in small}, **weights})
    cached(model, tmp_path / "cache", *small)
    hub.faults = {f"{path}!": [OUTAGE] for path in api_paths(model)}
    with pytest.raises(NotReadyError, match=r"the hub does not answer .*520"):
        model_folder(model)
    hub.faults = {f"{path}!": [OUTAGE] for path in api_paths(model) if "/tree/" in path}
    with pytest.raises(NotReadyError, match=rf"is not complete on this machine, .* lacks \S*{min(weights)[:5]}"):
        model_folder(model)
    hub.faults.clear()
    assert {file.name for file in model_folder(model).iterdir()} == {*small, *weights}


def test_a_download_that_is_damaged_is_not_called_incomplete(hub: Hub, tmp_path: Path) -> None:
    model = commit(hub, FILES)
    weights = cached(model, tmp_path / "cache", *FILES) / "model.safetensors"
    weights.write_bytes(FILES["model.safetensors"][:-1])
    hub.faults = {f"{path}!": [OUTAGE] for path in api_paths(model)}
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read as weights: it is cut short"):
        model_folder(model)


def test_a_planning_that_was_interrupted_is_no_model_without_a_tokenizer(hub: Hub, tmp_path: Path) -> None:
    model = commit(hub, FILES)
    cached(model, tmp_path / "cache", "config.json")
    hub.faults = {f"{path}!": [OUTAGE] for path in api_paths(model)}
    with pytest.raises(NotReadyError, match="the hub does not answer"):
        model_folder(model, weights=False)


def test_a_model_without_weights_is_not_tried_again(hub: Hub) -> None:
    model = commit(hub, {"config.json": b"{}", "tokenizer.model": b"x", "model.safetensors.index.json": INDEX})
    with pytest.raises(InputError, match="names files that are not there: model-1"):
        model_folder(model)
