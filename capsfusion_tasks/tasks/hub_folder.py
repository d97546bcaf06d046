"""The folder of an export in a data set repository of the Hugging Face hub.

``HubFolder`` has the methods of ``Storage`` that an export needs. A published Parquet file is uploaded at once, but it
becomes visible only in the commit of the next JSON file. This JSON file lists the finished Parquet files. So the list
always matches the visible files.

Each commit names its parent commit. The hub refuses a commit if somebody else has committed after the parent. If that
other commit changed nothing in this folder, the export tries its own commit again. Otherwise the export fails.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, RepoFile
from huggingface_hub.constants import DEFAULT_REVISION
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.shards.hub_repository import HubRepository
from capsfusion_tasks.shards.retries import MayPass
from capsfusion_tasks.staging import full_disk
from capsfusion_tasks.staging.scratch import ROOM

T = TypeVar("T")

CARD = "README.md"
_COLLISIONS = 10  # maximum number of tries of a commit, if others keep committing to the same branch


class HubFolder:
    """The folder ``hf://datasets/owner/name[@branch][/folder]``, or the whole repository if no folder is given.

    If the repository does not exist, the first commit creates it as a private repository.

    ``uploads`` is a local folder for files that are not committed yet. Raises InputError if the token may not write,
    and NotReadyError if the hub does not answer.
    """

    def __init__(self, uri: str, uploads: Path) -> None:
        self._hub = HubRepository(uri, needs="may write to it")
        self._root = f"{self._hub.folder}/" if self._hub.folder else ""
        self._waiting: list[CommitOperationAdd] = []
        self._uploads = uploads
        self._head, self._files = self._ask(self._open)

    def path(self, path: str) -> str:
        return f"{self._hub.uri}/{path}" if path else self._hub.uri

    def files(self, folder: str) -> list[str]:
        """Paths of the files in ``folder``, sorted. Leaves out the card and hidden files such as .gitattributes."""
        start = f"{folder}/" if folder else ""
        names = (path.removeprefix(start) for path in self._files if path.startswith(start))
        return sorted(start + name for name in names if "/" not in name and name[0] != "." and start + name != CARD)

    def exists(self, path: str) -> bool:
        return path in self._files

    def size(self, path: str) -> int | None:
        """The file's size in bytes. None if the file does not exist."""
        return self._files.get(path)

    def read_json(self, path: str) -> Any:
        return json.loads(self._read(path))

    def write_json(self, path: str, value: Any) -> None:
        """Commit ``value`` together with the files that were published since the last commit."""
        content = json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n"
        self._commit([*self._waiting, CommitOperationAdd(self._root + path, content)], f"Write {path}")
        self._waiting.clear()

    @contextmanager
    def publish(self, path: str) -> Iterator[Any]:
        """Open a local file. It is uploaded when the block ends, and becomes visible with the next ``write_json``."""
        local = self._uploads / path.replace("/", "_")
        with full_disk.explained(local.parent, self.path(path), ROOM), local.open("wb") as stream:
            yield stream
        operation = CommitOperationAdd(self._root + path, local)
        self._ask(
            lambda: self._hub.api.preupload_lfs_files(
                self._hub.name, [operation], repo_type="dataset", revision=self._hub.revision, free_memory=False
            )
        )
        self._waiting.append(operation)

    def delete(self, *paths: str) -> None:
        """Delete ``paths`` in one commit."""
        if paths:
            self._commit([CommitOperationDelete(self._root + path) for path in paths], f"Delete {', '.join(paths[:3])}")

    def delete_unpublished(self, folder: str) -> None:
        """Do nothing, because the hub never shows files of a killed writer."""

    @property
    def is_whole_repository(self) -> bool:
        """Whether the export fills the whole repository. If not, the repository's card cannot describe the export."""
        return not self._root

    def read_card(self) -> str | None:
        """The repository's card. None if the repository has no card."""
        return self._read(CARD).decode(errors="replace") if self.exists(CARD) else None

    def write_card(self, text: str) -> None:
        """Publish ``text`` as the repository's card, with the next ``write_json``."""
        self._waiting.append(CommitOperationAdd(CARD, text.encode()))

    def _open(self) -> tuple[str | None, dict[str, int]]:
        """The branch's last commit and the sizes of this folder's files. (None, {}) if there is no repository."""
        hub = self._hub
        try:
            info = hub.api.dataset_info(hub.name, revision=hub.revision, timeout=60)
        except RepositoryNotFoundError:  # the repository does not exist, or this token may not see it
            return None, {}
        tree = hub.api.list_repo_tree(hub.name, recursive=True, revision=info.sha, repo_type="dataset")
        return info.sha, {
            entry.path.removeprefix(self._root): entry.size
            for entry in tree
            if isinstance(entry, RepoFile) and entry.path.startswith(self._root)
        }

    def _create(self) -> str | None:
        hub = self._hub
        hub.api.create_repo(hub.name, repo_type="dataset", private=True, exist_ok=True)
        if hub.revision != DEFAULT_REVISION:
            hub.api.create_branch(hub.name, branch=hub.revision, repo_type="dataset", exist_ok=True)
        return hub.api.dataset_info(hub.name, revision=hub.revision, timeout=60).sha

    def _read(self, path: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="capsfusion-hub-") as folder:
            local = self._ask(
                lambda: self._hub.api.hf_hub_download(
                    self._hub.name,
                    self._root + path,
                    repo_type="dataset",
                    revision=self._head,
                    local_dir=folder,
                )
            )
            return Path(local).read_bytes()

    def _commit(self, operations: Iterable[CommitOperationAdd | CommitOperationDelete], message: str) -> None:
        hub, changes = self._hub, list(operations)
        self._head = self._head or self._ask(self._create)
        made = self._commit_on_head(changes, message)
        self._head = made.oid
        added = [change for change in changes if isinstance(change, CommitOperationAdd)]
        for change in changes:
            self._files.pop(change.path_in_repo.removeprefix(self._root), None)
        self._files |= self._sizes([change.path_in_repo for change in added])
        for change in added:
            if change.path_in_repo.removeprefix(self._root) not in self._files:
                raise InputError(
                    f"{hub.page} left {change.path_in_repo} out of a commit, because of the repository's .gitignore:"
                    " change this .gitignore, and run the export again"
                )
            if isinstance(change.path_or_fileobj, str):
                Path(change.path_or_fileobj).unlink()

    def _commit_on_head(self, changes: list[CommitOperationAdd | CommitOperationDelete], message: str) -> CommitInfo:
        """Commit ``changes``. Try again if somebody commits to other folders of the repository in between."""
        hub = self._hub
        for _ in range(_COLLISIONS):
            try:
                return self._ask(
                    lambda: hub.api.create_commit(
                        hub.name,
                        changes,
                        commit_message=message,
                        repo_type="dataset",
                        revision=hub.revision,
                        parent_commit=self._head,
                    )
                )
            except InputError as error:
                cause = error.__cause__
                if not (isinstance(cause, HfHubHTTPError) and cause.response.status_code == 412):
                    raise
            self._head, files = self._ask(self._open)
            # The files also differ if an earlier try made this commit, but the hub's answer was lost.
            if files != self._files:
                raise NotReadyError(
                    f"{self.path('')} has files that this export does not know: somebody else committed, or an answer"
                    " of the hub was lost; run the export again"
                )
        raise NotReadyError(f"cannot commit to {hub.page}, because others commit too often; try again later")

    def _sizes(self, paths: list[str]) -> dict[str, int]:
        """Path in this folder → size, for those of ``paths`` that exist. ``paths`` are relative to the repository."""
        hub = self._hub
        found = self._ask(
            lambda: hub.api.get_paths_info(hub.name, paths, revision=self._head, repo_type="dataset") if paths else []
        )
        return {entry.path.removeprefix(self._root): entry.size for entry in found if isinstance(entry, RepoFile)}

    def _ask(self, call: Callable[[], T]) -> T:
        def unwrapped() -> T:
            try:
                return call()
            except LocalEntryNotFoundError as error:  # huggingface_hub's error for a download that gets no answer
                raise MayPass(str(error.__cause__ or error)) from error
            except (ConnectionError, TimeoutError) as error:  # hf_xet's errors for an upload that gets no answer
                raise MayPass(str(error)) from error
            except RuntimeError as error:  # hf_xet's error for a failed upload
                if error.__cause__ is None:
                    raise MayPass(str(error)) from error
                raise error.__cause__ from None

        return self._hub.ask(unwrapped)
