"""Exports from a real PostgreSQL to a data set repository. The hub is a local server with the hub's API."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard, HfApi, constants

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards import retries
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import export_parts
from capsfusion_tasks.tasks.export import Manifest, export_captions, export_filtered, export_target
from capsfusion_tasks.tasks.hub_folder import HubFolder
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.export_selection import Selection
from tests.conftest import new_warehouse
from tests.tasks.test_export import fill, parts
from tests.tasks.writable_hub import WritableHub

REPO = "me/captions"
URI = f"hf://datasets/{REPO}"


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[Warehouse]:
    with new_warehouse(postgres) as url, open_warehouse(Settings(warehouse_url=url)) as warehouse:
        fill(warehouse)
        yield warehouse


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    server = WritableHub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(retries, "_wait", lambda stop, seconds: False)
    monkeypatch.setattr(export_parts, "ROW_GROUP_ROWS", 64)
    with server.running():
        yield server


def run(warehouse: Warehouse, uri: str = URI, said: list[str] | None = None, **options: Any) -> Manifest:
    overwrite, say = options.pop("overwrite", "never"), (said if said is not None else []).append
    selection = Selection(**options)
    with export_target(uri, Path(tempfile.gettempdir())) as target:
        return export_captions(warehouse, target, selection, rows_per_file=100, overwrite=overwrite, say=say)


def of_a_folder(warehouse: Warehouse, folder: Path) -> dict[str, bytes]:
    storage = Storage(str(folder))
    export_captions(warehouse, storage, Selection(), rows_per_file=100, say=lambda line: None)
    return {name: (folder / name).read_bytes() for name in storage.files("data")}


def test_a_filtered_export_goes_to_the_hub_too(filled: Warehouse, hub: WritableHub, tmp_path: Path) -> None:
    done = export_filtered(filled, CaptionFilter(fusion_id="f2"), URI, tmp_path, limit=3, say=lambda line: None)
    assert (done["rows"], done["files"]) == (3, 1)
    assert parts(0)[0] in hub.files_of(REPO)


def data_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path.endswith(".parquet")}


def test_a_repository_is_made_with_the_files_of_a_folder(filled: Warehouse, hub: WritableHub, tmp_path: Path) -> None:
    manifest = run(filled)
    files = hub.files_of(REPO)
    assert data_of(files) == of_a_folder(filled, tmp_path)
    assert sorted(files) == [".gitattributes", "README.md", "_manifest.json", *parts(0, 1, 2, 3, 4)]
    assert Manifest(**json.loads(files["_manifest.json"])) == manifest
    commits = len(hub.repos[REPO])
    assert run(filled) == manifest
    assert len(hub.repos[REPO]) == commits, "a finished export is not written again"


def test_the_card_says_what_the_data_set_has(filled: Warehouse, hub: WritableHub) -> None:
    run(filled, columns=("image_url", "capsfusion", "pair_id", "laion_2b_source"))
    files = hub.files_of(REPO)
    sources = [pq.read_table(pa.BufferReader(data))["laion_2b_source"] for data in data_of(files).values()]
    assert {name for each in sources for name in each.to_pylist()} == {None, "my-laion2B"}, "no address of a source"
    card = DatasetCard(files["README.md"].decode())
    [config] = yaml.safe_load(card.data.to_yaml())["configs"]
    assert config["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    for line in (
        "420 captions of web images",
        "Of 600 captions, validation accepted 500 (83.3%) and rejected 100.",
        "| f1 | 320 | demo |",
        "| f2 | 100 | demo |",
        "| loop | 100 |",
        "| `pair_id` | `string` |",
        "| unknown | hf://datasets/laion/laion-coco | none found | 320 |",
        "| my-laion2B | hf://datasets/laion/laion-coco | cc-by-2.0 | 100 |",
    ):
        assert line in card.text


def test_a_persons_card_is_kept(filled: Warehouse, hub: WritableHub) -> None:
    run(filled)
    ours = hub.files_of(REPO)["README.md"]
    for card in (b"# My captions\n", ours.replace(b"---\n", b"---\nlicense: cc-by-4.0\n", 1)):
        hub.commit(REPO, datetime.now(UTC), {"README.md": card})
        said: list[str] = []
        run(filled, said=said, overwrite="always")
        assert hub.files_of(REPO)["README.md"] == card
        assert said[-1] == f"{URI}/README.md was written or changed by a person, so the export does not replace it"
    hub.commit(REPO, datetime.now(UTC), {"README.md": ours})
    run(filled, limit=7, overwrite="always")
    assert b"7 captions of web images" in hub.files_of(REPO)["README.md"]


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_request_and_repeated_gives_the_same_files(
    filled: Warehouse, hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    class KilledError(BaseException):
        pass

    rng, left = random.Random(seed), 0
    ask = HubFolder._ask

    def asking(folder: HubFolder, call: Any, **tries: int) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and rng.random() < 0.5:
            raise KilledError
        answer = ask(folder, call, **tries)
        if left <= 0:  # the hub has carried out the request, but its response is lost
            raise KilledError
        return answer

    monkeypatch.setattr(HubFolder, "_ask", asking)
    for _ in range(4):
        left = rng.randint(1, 25)
        try:
            run(filled)
        except KilledError:
            continue
    monkeypatch.setattr(HubFolder, "_ask", ask)
    run(filled)
    files = hub.files_of(REPO)
    assert data_of(files) == of_a_folder(filled, tmp_path)
    ids = pa.concat_tables([pq.read_table(pa.BufferReader(files[name])) for name in parts(0, 1, 2, 3, 4)])
    assert ids.num_rows == 420
    assert "_export.json" not in files


def test_a_commit_of_somebody_else_ends_the_export(filled: Warehouse, hub: WritableHub) -> None:
    def interfere() -> None:
        if len(hub.repos[REPO]) == 3:
            hub.commit(REPO, hub.repos[REPO][-1][1], {"notes.txt": b"mine"})

    hub.before_commit = interfere
    with pytest.raises(NotReadyError, match=r"hf://datasets/me/captions has files that this export does not know"):
        run(filled)
    with pytest.raises(InputError, match=r"has files that belong to no export \(notes.txt\)"):
        run(filled)


def test_exports_to_other_folders_of_the_repository_may_run_beside(filled: Warehouse, hub: WritableHub) -> None:
    def interfere() -> None:
        if len(hub.repos[REPO]) % 2 == 0:
            hub.commit(REPO, hub.repos[REPO][-1][1], {"day/2/data/part-00000.parquet": bytes(len(hub.repos[REPO]))})

    hub.before_commit = interfere
    assert run(filled, f"{URI}/day/1").rows == 420
    assert {f"day/1/{name}" for name in ("_manifest.json", *parts(0, 1, 2, 3, 4))} <= hub.files_of(REPO).keys()


def test_what_fails_for_a_moment_is_tried_again(
    filled: Warehouse, hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    kinds = ("/api/repos/create", "/preupload/", "/objects/batch", "/upload/", "/commit/", "/paths-info/")
    hub.failures = {kind: [429, 503, "cut"] for kind in kinds}
    run(filled)
    assert not any(hub.failures.values())
    assert data_of(hub.files_of(REPO)) == of_a_folder(filled, tmp_path)


def test_an_upload_that_xet_could_not_finish_is_tried_again(
    filled: Warehouse, hub: WritableHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    preupload, failures = HfApi.preupload_lfs_files, [ConnectionError("Network error"), TimeoutError("too slow")]

    def uploading(*arguments: Any, **options: Any) -> None:
        if failures:
            raise failures.pop()
        preupload(*arguments, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", uploading)
    assert run(filled).rows == 420
    assert failures == []


def test_a_commit_whose_answer_is_lost_is_found_by_the_next_run(
    filled: Warehouse, hub: WritableHub, tmp_path: Path
) -> None:
    run(filled, limit=1, overwrite="always")
    hub.failures = {"/commit/": ["lost"]}
    with pytest.raises(NotReadyError, match="an answer of the hub was lost; run the export again"):
        run(filled, overwrite="always")
    run(filled)
    assert data_of(hub.files_of(REPO)) == of_a_folder(filled, tmp_path)


def test_a_new_repository_gets_the_branch(filled: Warehouse, hub: WritableHub) -> None:
    run(filled, f"{URI}@next")
    assert hub.files_of(REPO).keys() >= {"README.md", *parts(0)}


def test_files_that_a_storage_hides_are_no_files_of_somebody_else(filled: Warehouse, hub: WritableHub) -> None:
    hub.commit(REPO, datetime.now(UTC), {".gitignore": b"*.tmp\n", ".gitattributes": b""})
    assert run(filled).rows == 420


def test_a_file_that_the_repository_ignores_is_not_lost_in_silence(filled: Warehouse, hub: WritableHub) -> None:
    hub.ignored = {*parts(1)}
    with pytest.raises(
        InputError, match=r"left data/part-00001.parquet out of a commit, because .* .gitignore: change"
    ):
        run(filled)


def test_a_token_that_may_not_write_is_refused_at_once(filled: Warehouse, hub: WritableHub) -> None:
    hub.may_write = False
    with pytest.raises(InputError, match=r"refuses access \(HTTP 403\): .*HF_TOKEN to a token .* that may write"):
        run(filled)


def test_a_selection_that_is_refused_makes_no_repository(filled: Warehouse, hub: WritableHub) -> None:
    with pytest.raises(InputError, match="has no fusion f9"):
        run(filled, fusion_id="f9")
    assert hub.repos == {}


def test_an_address_that_names_no_repository_is_refused() -> None:
    said = r"hf://spaces/x names no data set of the hub: give hf://datasets/owner/name"
    with pytest.raises(InputError, match=said), export_target("hf://spaces/x", Path()):
        pass


def test_a_folder_of_a_repository_has_no_card(filled: Warehouse, hub: WritableHub, tmp_path: Path) -> None:
    said: list[str] = []
    run(filled, f"{URI}/day/1", said)
    files = hub.files_of(REPO)
    assert "README.md" not in files
    assert "README.md" not in said[-1]
    found = {path.removeprefix("day/1/"): content for path, content in data_of(files).items()}
    assert found == of_a_folder(filled, tmp_path)
