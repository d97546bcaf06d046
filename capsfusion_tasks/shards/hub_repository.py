"""A data set repository of the Hugging Face hub: its address, and requests with clear errors."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.hub_client import limit_requests
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import TRIES, MayPass, retrying

T = TypeVar("T")

# Only the hub's own revisions may contain a slash: refs/convert/parquet, refs/pr/3. Other revisions need %2F for a
# slash.
_REVISION = r"refs/convert/\w+|refs/pr/\d+|[^/]+"
_URI = re.compile(rf"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>{_REVISION}))?(/(?P<folder>.+?))?/*")


limit_requests()


class HubRepository:
    """A data set repository at ``hf://datasets/owner/name[@revision][/folder]``.

    Uses the token and endpoint of the hub's own tools: HF_TOKEN (or ``hf auth login``) and HF_ENDPOINT.
    ``needs``: the permission that the token needs, as text for errors (such as "may read it"). Raises InputError for an
    address of any other form.
    """

    def __init__(self, uri: str, needs: str) -> None:
        match = _URI.fullmatch(uri)
        if not match:
            raise InputError(f"{uri} names no data set of the hub: give hf://datasets/owner/name[@revision][/folder]")
        self.uri = uri.rstrip("/")
        self.name: str = match["repo"]
        self.revision = unquote(match["revision"] or constants.DEFAULT_REVISION)  # my%2Fbranch names my/branch
        self.folder = (match["folder"] or "").strip("/")
        # Read HF_ENDPOINT here: huggingface_hub reads it when it is imported, which may be before the variable is set.
        self.endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
        self.api = HfApi(endpoint=self.endpoint)
        self.page = f"{self.endpoint}/datasets/{self.name}"
        self._needs = needs

    @property
    def access(self) -> str:
        """Advice for errors: what to do if the hub refuses access."""
        token = "the token in use has no access" if get_token() else "no token is set"
        return (
            f"{token}; if the data set is gated, accept its terms on {self.page}, "
            f"then set HF_TOKEN to a token of the same account; the token must be one that {self._needs}"
        )

    def ask(self, call: Callable[[], T], tries: int = TRIES) -> T:
        """The hub's answer to a request. Raises InputError if the hub refuses, NotReadyError if it does not answer."""

        def step() -> T:
            try:
                return call()
            except GatedRepoError as error:
                raise InputError(f"{self.page} is gated: {self.access}") from error
            except RepositoryNotFoundError as error:
                raise InputError(f"no data set {self.page}, or it is private: check the name; {self.access}") from error
            except RevisionNotFoundError as error:
                raise InputError(
                    f"{self.page} has no revision {self.revision}: name a branch, tag or commit, and write each / in"
                    " its name as %2F"
                ) from error
            except EntryNotFoundError as error:
                raise InputError(
                    f"{self.page} has no folder {self.folder} at {self.revision}: check the name. If it is a pattern,"
                    " put the pattern into CAPSFUSION_…_INCLUDE"
                ) from error
            except OfflineModeIsEnabled as error:
                raise InputError(f"cannot list {self.page}: {error}") from error
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status in (408, 425, 429) or status >= 500:
                    raise MayPass(f"the hub answers HTTP {status}") from error
                if status in (401, 403):
                    raise InputError(f"{self.page} refuses access (HTTP {status}): {self.access}") from error
                raise InputError(f"cannot use {self.page}: {error}") from error
            except (OSError, ValueError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:  # no request was sent
                raise InputError(f"cannot reach {self.page}: {error}; check {web.VARIABLES}, HF_ENDPOINT") from error

        return retrying(step, self.page, on=web.BROKEN, tries=tries)
