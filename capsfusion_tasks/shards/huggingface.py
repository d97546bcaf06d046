"""Shards in a data set repository of the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from huggingface_hub import RepoFile, get_token, hf_hub_url

from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.hub_repository import HubRepository
from capsfusion_tasks.shards.source import SourceFile, Unreadable
from capsfusion_tasks.shards.transfer import Expected, fetched, sha256


class HubSource:
    """Files at ``hf://datasets/owner/name[@revision][/folder]``.

    A file's arrival time is the time of the last commit that changed the file.

    Each listing resolves the revision to a commit, and shards are read from that commit. So later commits change
    neither the list nor the shards.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        self._repository = HubRepository(uri, needs="may read it")
        self._scratch = scratch
        self.uri = self._repository.uri

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        hub = self._repository
        info = hub.ask(lambda: hub.api.dataset_info(hub.name, revision=hub.revision, timeout=60))
        if info.gated:  # check access now, because listing the files of a gated repository needs no permission
            hub.ask(lambda: hub.api.auth_check(hub.name, repo_type="dataset"))
        tree = hub.ask(
            lambda: list(
                hub.api.list_repo_tree(
                    hub.name,
                    hub.folder or None,
                    recursive=True,
                    expand=True,
                    revision=info.sha,
                    repo_type="dataset",
                )
            ),
            tries=1,  # one try here, because huggingface_hub itself retries each page of this call
        )
        start = f"{hub.folder}/" if hub.folder else ""
        for entry in sorted(tree, key=lambda entry: entry.path):
            path = entry.path.removeprefix(start)
            if not isinstance(entry, RepoFile) or not wanted(path):
                continue
            if entry.last_commit is None:
                yield Unreadable(path, f"{hub.page} gives no date for {entry.path}, so its interval is not known")
                continue
            etag = entry.lfs.sha256 if entry.lfs else entry.blob_id
            yield SourceFile(path, etag, entry.size, entry.last_commit.date, revision=info.sha or "")

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        hub, token = self._repository, get_token()
        address = web.Address(
            url=hf_hub_url(
                hub.name,
                f"{hub.folder}/{shard.path}".lstrip("/"),
                repo_type="dataset",
                revision=shard.revision or hub.revision,
                endpoint=hub.endpoint,
            ),
            where=f"{self.uri}/{shard.path}",
            credentials=hub.access,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            gone=f"its commit {shard.revision} was removed: run the interval with --relist to list the file again",
        )
        expected = Expected(shard.size_bytes, checksum=shard.etag, digest=_digest_like(shard))
        with fetched(shard, address, expected, self._scratch) as stream:
            yield stream


def _digest_like(shard: Shard) -> Callable[[Path], str]:
    """The function that computes a file's etag on the hub: SHA-256 for LFS files, Git's blob id for other files."""
    return sha256 if len(shard.etag) == 64 else _blob_id


def _blob_id(file: Path) -> str:
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
