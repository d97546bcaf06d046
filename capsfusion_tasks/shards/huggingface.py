"""Shards in a data set repository of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import httpx2
import pyarrow as pa
from huggingface_hub import HfApi, RepoFile, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import TRIES, MayPass, retrying
from capsfusion_tasks.shards.source import SourceFile, Unreadable
from capsfusion_tasks.shards.transfer import Expected, fetched, sha256

T = TypeVar("T")

# Of the revisions with a slash, only the hub's own stand as they are: refs/convert/parquet, refs/pr/3.
_REVISION = r"refs/convert/\w+|refs/pr/\d+|[^/]+"
_URI = re.compile(rf"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>{_REVISION}))?(/(?P<folder>.+?))?/*")


class HubSource:
    """``hf://datasets/owner/name[@revision][/folder]``. A file arrives with the last commit that changed it.

    Each listing resolves the revision to a commit, and shards are read from that commit: later commits change neither.
    Token and endpoint are those of the hub's own tools: HF_TOKEN (or ``hf auth login``) and HF_ENDPOINT.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        match = _URI.fullmatch(uri)
        if not match:
            raise InputError(f"cannot read shards from {uri}: give hf://datasets/owner/name[@revision][/folder]")
        self._repo: str = match["repo"]
        self._revision = unquote(match["revision"] or constants.DEFAULT_REVISION)  # a branch may be my%2Fbranch
        self._folder = (match["folder"] or "").strip("/")
        self._scratch = scratch
        # The library's constant is read at its import, which may be before the variable is set.
        self._endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self.uri = uri.rstrip("/")

    @property
    def _page(self) -> str:
        return f"{self._endpoint}/datasets/{self._repo}"

    @property
    def _access(self) -> str:
        token = "the token in use has no access" if get_token() else "no token is set"
        return (
            f"{token}; if the data set is gated, accept its terms on {self._page}, "
            "then set HF_TOKEN to a token of that account that may read it"
        )

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        api = HfApi(endpoint=self._endpoint)
        info = self._ask(lambda: api.dataset_info(self._repo, revision=self._revision, timeout=60))
        if info.gated:  # everybody may list its files, but not read them
            self._ask(lambda: api.auth_check(self._repo, repo_type="dataset"))
        tree = self._ask(
            lambda: list(
                api.list_repo_tree(
                    self._repo,
                    self._folder or None,
                    recursive=True,
                    expand=True,
                    revision=info.sha,
                    repo_type="dataset",
                )
            ),
            tries=1,  # huggingface_hub retries only this call itself, page by page
        )
        start = f"{self._folder}/" if self._folder else ""
        for entry in sorted(tree, key=lambda entry: entry.path):
            path = entry.path.removeprefix(start)
            if not isinstance(entry, RepoFile) or not wanted(path):
                continue
            if entry.last_commit is None:
                yield Unreadable(path, f"{self._page} gives no date for {entry.path}, so its interval is not known")
                continue
            etag = entry.lfs.sha256 if entry.lfs else entry.blob_id
            yield SourceFile(path, etag, entry.size, entry.last_commit.date, revision=info.sha or "")

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        token = get_token()
        address = web.Address(
            url=hf_hub_url(
                self._repo,
                f"{self._folder}/{shard.path}".lstrip("/"),
                repo_type="dataset",
                revision=shard.revision or self._revision,
                endpoint=self._endpoint,
            ),
            where=f"{self.uri}/{shard.path}",
            credentials=self._access,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            gone=f"its commit {shard.revision} was removed: run the interval with --relist, which lists it anew",
        )
        expected = Expected(shard.size_bytes, checksum=shard.etag, digest=_digest_like(shard))
        with fetched(shard, address, expected, self._scratch) as stream:
            yield stream

    def _ask(self, call: Callable[[], T], tries: int = TRIES) -> T:
        """The hub's answer. Raises InputError for a refusal, NotReadyError if the hub does not answer."""

        def step() -> T:
            try:
                return call()
            except GatedRepoError as error:
                raise InputError(f"{self._page} is gated: {self._access}") from error
            except RepositoryNotFoundError as error:
                raise InputError(
                    f"no data set {self._page}, or it is private: check the name; {self._access}"
                ) from error
            except RevisionNotFoundError as error:
                raise InputError(
                    f"{self._page} has no revision {self._revision}: name a branch, tag or commit, with %2F for each /"
                ) from error
            except EntryNotFoundError as error:
                raise InputError(
                    f"{self._page} has no folder {self._folder} at {self._revision}: check it; patterns go into INCLUDE"
                ) from error
            except OfflineModeIsEnabled as error:
                raise InputError(f"cannot list {self._page}: {error}") from error
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status in (408, 425, 429) or status >= 500:
                    raise MayPass(f"the hub answers HTTP {status}") from error
                if status in (401, 403):
                    raise InputError(f"{self._page} refuses access (HTTP {status}): {self._access}") from error
                raise InputError(f"cannot list {self._page}: {error}") from error
            except (OSError, ValueError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:  # before it asks
                raise InputError(f"cannot ask {self._page}: {error}; see {web.VARIABLES}, HF_ENDPOINT") from error

        return retrying(step, self._page, on=web.BROKEN, tries=tries)


def _digest_like(shard: Shard) -> Callable[[Path], str]:
    """How the hub computed the shard's etag: SHA-256 for files in LFS, git's blob id for the others."""
    return sha256 if len(shard.etag) == 64 else _blob_id


def _blob_id(file: Path) -> str:
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
