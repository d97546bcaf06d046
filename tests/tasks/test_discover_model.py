"""A wrong model is reported by the first task, before shards are pulled and paired."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.opened import interval_tasks
from tests.tasks.place import DAY, Place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception], list[str]]:
    """A hub whose answer to each download is the given folder or error. Returns the patterns of the files asked for."""

    def answers(answer: Path | Exception) -> list[str]:
        asked: list[str] = []

        def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            assert (name, revision) == ("team/model", None)
            asked.extend(allow_patterns)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return asked

    return answers


def refusal_of(task: Callable[..., object], settings: Settings, error: type[Exception]) -> str:
    with pytest.raises(error) as refused:
        task(settings, DAY)
    return str(refused.value)


def has_list(settings: Settings) -> bool:
    return Storage(settings.staging_uri).exists(layout.discovered(DAY))


def test_a_misspelt_model_is_refused_as_by_plan_and_nothing_is_listed(place: Place) -> None:
    settings = place.settings(model="/models/CapsFus-Lama")
    told = refusal_of(interval_tasks.discover, settings, InputError)
    assert told.startswith("no model at /models/CapsFus-Lama: give a folder with config.json")
    assert told == refusal_of(interval_tasks.plan, settings, InputError)
    assert not has_list(settings)


def test_a_model_that_the_hub_does_not_have_is_refused(
    place: Place, hub: Callable[[Path | Exception], list[str]]
) -> None:
    request = httpx2.Request("GET", "https://hub.example.org")
    hub(RepositoryNotFoundError("404: not found", response=httpx2.Response(404, request=request)))
    told = refusal_of(interval_tasks.discover, place.settings(model="team/model"), InputError)
    assert told.startswith("no model team/model: there is no such folder, and the hub says: 404: not found")


def test_a_hub_that_does_not_answer_is_asked_again(place: Place, hub: Callable[[Path | Exception], list[str]]) -> None:
    hub(httpx2.ConnectError("no route"))
    told = refusal_of(interval_tasks.discover, place.settings(model="team/model"), NotReadyError)
    assert "the hub does not answer (no route)" in told


def test_no_weights_are_downloaded(place: Place, hub: Callable[[Path | Exception], list[str]]) -> None:
    snapshot = place.folder / ("c" * 40)
    shutil.copytree(BUNDLED_MODEL, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    asked = hub(snapshot)
    assert interval_tasks.discover(place.settings(model="team/model"), DAY)
    assert asked == ["*.json", "tokenizer.model"]
