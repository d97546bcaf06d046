"""Data set repositories on a local hub at HF_ENDPOINT."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.shards.discovery import discover
from capsfusion_tasks.shards.sources import configured_sources, open_source
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.shards.web_server import Fault, Hub

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))
NEXT_DAY = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
REPO = "laion/some-captions"
URI = f"hf://datasets/{REPO}"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "staging"))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def shards_of(
    uri: str, storage: Storage, interval: Interval = DAY, include: str = "*.parquet", relist: bool = False
) -> list[Shard]:
    found = configured_sources(load_settings(laion2b=uri, laion2b_include=include))
    return discover({"laion_2b": found["laion_2b"]}, interval, storage, relist=relist)


def read(shard: Shard, scratch: Path) -> bytes:
    with open_source(shard.source, load_settings(scratch=scratch)).open(shard) as stream:
        return bytes(stream.read())


def test_a_file_arrives_with_the_last_commit_that_changed_it(hub: Hub, storage: Storage, scratch: Path) -> None:
    hub.commit(REPO, START, {f"data/{n}.parquet": b"%d" % n for n in range(5)} | {"README.md": b"read me"})
    last = hub.commit(REPO, DAY.end, {"data/4.parquet": b"changed", "data/new.parquet": b"new"})
    early = shards_of(URI, storage)
    assert [shard.path for shard in early] == [f"data/{n}.parquet" for n in range(4)]
    late = shards_of(URI, storage, NEXT_DAY)
    assert [shard.path for shard in late] == ["data/4.parquet", "data/new.parquet"]
    assert [shard.etag for shard in late] == [hashlib.sha256(c).hexdigest() for c in (b"changed", b"new")]
    assert {shard.revision for shard in (*early, *late)} == {last}
    assert [read(shard, scratch) for shard in (*early, *late)] == [b"0", b"1", b"2", b"3", b"changed", b"new"]
    assert list(scratch.iterdir()) == []


def test_a_commit_between_listing_and_reading_changes_nothing(hub: Hub, storage: Storage, scratch: Path) -> None:
    hub.commit(REPO, START, {"a.parquet": b"old"})
    (old,) = shards_of(URI, storage)
    hub.commit(REPO, DAY.end, {"a.parquet": b"new"})
    assert read(old, scratch) == b"old"
    (new,) = shards_of(URI, storage, NEXT_DAY)
    assert new.shard_id != old.shard_id
    assert read(new, scratch) == b"new"


def test_a_revision_and_a_folder_can_be_named(hub: Hub, storage: Storage, scratch: Path) -> None:
    first = hub.commit(REPO, START, {"deep/folder/a.parquet": b"old", "other.parquet": b"other"})
    hub.commit(REPO, START, {"deep/folder/a.parquet": b"new"})
    (shard,) = shards_of(f"{URI}@{first}/deep/folder/", storage)
    assert (shard.path, shard.source, read(shard, scratch)) == ("a.parquet", f"{URI}@{first}/deep/folder", b"old")


@pytest.mark.parametrize(
    ("named", "revision"),
    [
        ("refs/convert/parquet", "refs/convert/parquet"),
        ("refs/pr/3", "refs/pr/3"),
        ("refs%2Fconvert%2Fparquet", "refs/convert/parquet"),
        ("my%2Fbranch", "my/branch"),
        ("v1.0", "v1.0"),
    ],
)
def test_each_form_of_a_revision_is_understood(
    hub: Hub, storage: Storage, scratch: Path, named: str, revision: str
) -> None:
    hub.names[revision] = hub.commit(REPO, START, {"default/train/a.parquet": b"converted"})
    hub.commit(REPO, START, {"default/train/a.parquet": b"later"})
    (shard,) = shards_of(f"{URI}@{named}/default", storage)
    assert (shard.path, read(shard, scratch)) == ("train/a.parquet", b"converted")


def test_a_commit_that_was_removed_says_how_to_list_anew(hub: Hub, storage: Storage, scratch: Path) -> None:
    removed = hub.commit(REPO, START, {"a.parquet": b"x"})
    (shard,) = shards_of(URI, storage)
    hub.repos[REPO].clear()
    hub.commit(REPO, START, {"b.parquet": b"x"})
    hub.commit(REPO, START, {"a.parquet": b"x"})
    with pytest.raises(InputError, match=rf"its commit {removed} was removed: run the interval with --relist"):
        read(shard.model_copy(update={"revision": removed}), scratch)


def test_relist_reads_a_shard_from_the_new_history_if_its_commit_was_removed(
    hub: Hub, storage: Storage, scratch: Path
) -> None:
    hub.commit(REPO, START, {"a.parquet": b"x"})
    (shard,) = shards_of(URI, storage)
    squashed = hub.commit(REPO, DAY.end, {"a.parquet": b"x"})
    del hub.repos[REPO][0]
    assert shards_of(URI, storage) == [shard]
    (again,) = shards_of(URI, storage, relist=True)
    assert again == shard.model_copy(update={"revision": squashed})
    assert read(again, scratch) == b"x"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HF_ENDPOINT", "hub.internal", "missing an 'http://' or 'https://' protocol"),
        ("HTTPS_PROXY", "gopher://x", "Unknown scheme for proxy URL"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "No such file or directory"),
    ],
)
def test_an_environment_that_cannot_work_is_named(
    hub: Hub, storage: Storage, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    hub.commit(REPO, START, {"a.parquet": b"x"})
    monkeypatch.setenv(variable, value)
    close_session()
    with pytest.raises(InputError, match=said):
        shards_of(URI, storage)
    close_session()


def test_a_file_outside_lfs_is_checked_too(hub: Hub, storage: Storage, scratch: Path) -> None:
    hub.commit(REPO, START, {"small.pq": b"in git itself"})
    (shard,) = shards_of(URI, storage, include="*.pq")
    assert len(shard.etag) == 40
    assert read(shard, scratch) == b"in git itself"
    hub.files[f"/storage/{hashlib.sha256(b'in git itself').hexdigest()}"].content = b"in git itsel."
    with pytest.raises(NotReadyError, match="arrived with checksum"):
        read(shard, scratch)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(
    hub: Hub, storage: Storage, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.gated.add(REPO)
    hub.commit(REPO, START, {"a.parquet": b"secret"})
    (shard,) = shards_of(URI, storage)
    assert read(shard, scratch) == b"secret"
    for request in hub.requests:
        assert request.authorization == (None if request.path.startswith("/storage/") else f"Bearer {hub.token}")


@pytest.mark.parametrize(
    ("token", "state"), [(None, "no token is set"), ("hf_other", "the token in use has no access")]
)
def test_a_gated_data_set_names_the_page_and_the_token(
    hub: Hub,
    storage: Storage,
    scratch: Path,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    state: str,
) -> None:
    hub.commit(REPO, START, {"a.parquet": b"x"})
    (shard,) = shards_of(URI, storage)
    hub.gated.add(REPO)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    message = rf"{state}; .*accept its terms on {hub.url}/datasets/{REPO}, then set HF_TOKEN"
    with pytest.raises(InputError, match=message):
        shards_of(URI, storage, NEXT_DAY)
    hub.requests.clear()
    with pytest.raises(InputError, match=message):
        read(shard, scratch)
    assert (len(hub.requests), waits) == (1, [])


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://datasets/laion/nothing", r"no data set http://\S+/datasets/laion/nothing, or it is private"),
        (f"{URI}@nowhere", "has no revision nowhere"),
        (f"{URI}/no/folder", "has no folder no/folder at main"),
        ("hf://laion/some-captions", r"give hf://datasets/owner/name\[@revision\]\[/folder\]"),
        ("hf://datasets/laion", r"give hf://datasets/owner/name"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, storage: Storage, uri: str, message: str) -> None:
    hub.commit(REPO, START, {"a.parquet": b"x"})
    with pytest.raises(InputError, match=message):
        shards_of(uri, storage)


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, storage: Storage, scratch: Path, waits: list[float]) -> None:
    hub.commit(REPO, START, {"a.parquet": b"x"})
    hub.faults[f"/api/datasets/{REPO}/revision/main"] = [Fault(503), Fault(429)]
    (shard,) = shards_of(URI, storage)
    hub.faults[f"/datasets/{REPO}/resolve/{shard.revision}/a.parquet"] = [Fault(429, {"Retry-After": "30"})]
    assert read(shard, scratch) == b"x"
    assert len(waits) == 3
    assert waits[2] == 30


def test_a_hub_that_does_not_answer_is_worth_another_try(
    hub: Hub, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(NotReadyError, match=r"http://127\.0\.0\.1:1/datasets/laion/some-captions: .*try again later"):
        shards_of(URI, storage)


@pytest.mark.parametrize("request_path", ["auth-check", "tree/{commit}"])
def test_a_hub_that_accepts_a_request_and_never_answers_is_worth_another_try(
    hub: Hub, storage: Storage, monkeypatch: pytest.MonkeyPatch, request_path: str
) -> None:
    monkeypatch.setattr("capsfusion_tasks.hub_client._READ", 0.05)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.gated.add(REPO)
    path = request_path.format(commit=hub.commit(REPO, START, {"a.parquet": b"x"}))
    hub.faults[f"/api/datasets/{REPO}/{path}!"] = [Fault(silent=True)]
    with pytest.raises(NotReadyError, match=r"timed out.*try again later"):
        shards_of(URI, storage)
    assert not storage.exists(layout.discovered(DAY))
    hub.faults.clear()
    assert len(shards_of(URI, storage)) == 1


def test_the_sources_are_the_published_data_sets_unless_others_are_set(
    storage: Storage, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPSFUSION_LAION2B", "")
    found = configured_sources(load_settings())
    assert {side: place.source.uri for side, place in found.items()} == {
        "laion_2b": "hf://datasets/laion/relaion2B-en-research-safe",
        "laion_coco": "hf://datasets/laion/relaion-coco",
    }
