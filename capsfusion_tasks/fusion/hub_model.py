"""Downloads a model's files from the hub. Distinguishes temporary errors from errors that a retry does not fix.

Does not import torch, because Airflow tasks use this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.weight_files import PICKLES, SAFETENSORS, has_safetensors
from capsfusion_tasks.hub_client import limit_requests
from capsfusion_tasks.staging import full_disk

_FILES = ["*.json", "tokenizer.model"]
_MAY_PASS = (408, 425, 429)  # HTTP statuses of temporary errors, in addition to all statuses from 500 on
# Errors that a retry does not fix: an invalid model name or hub address, and a cache without write permission.
_WILL_STAY = (ValueError, PermissionError, httpx2.InvalidURL, httpx2.UnsupportedProtocol)

limit_requests()


def download(model: str, *, weights: bool) -> Path:
    """The folder of the hub model ``model`` in huggingface_hub's cache. Downloads missing files, if the hub answers.

    If the hub does not answer, the folder may lack files: see ``require_complete``. Raises InputError if the hub
    refuses the download, and NotReadyError if the download fails for a temporary reason.
    """
    name, _, revision = model.partition("@")
    patterns = [*_FILES, SAFETENSORS] if weights else _FILES
    with _explained(model):
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=patterns))
        if weights and not has_safetensors(folder):
            # Fetch pickles only if there are no safetensors. Many repositories have the weights in both formats.
            huggingface_hub.snapshot_download(name, revision=folder.name, allow_patterns=[*patterns, PICKLES])
    return folder


def require_complete(model: str, folder: Path, *, weights: bool) -> None:
    """Raise NotReadyError if ``folder``, a result of ``download``, lacks files that the hub has.

    While the hub does not answer, ``download`` returns the folder in the cache. This folder may have only the
    configuration and the tokenizer, which are enough for planning, or the files of an interrupted download.
    """
    patterns = list(_FILES)
    if weights:
        patterns += [SAFETENSORS] if has_safetensors(folder) else [SAFETENSORS, PICKLES]
    name, seconds = model.partition("@")[0], constants.HF_HUB_ETAG_TIMEOUT
    with _explained(model):
        found = huggingface_hub.HfApi().model_info(name, revision=folder.name, timeout=seconds)
    listed = [file.rfilename for file in found.siblings or []]
    wanted = [file for file in listed if any(fnmatch(file, pattern) for pattern in patterns)]
    if lacking := [file for file in wanted if not (folder / file).exists()]:
        raise NotReadyError(
            f"the model {model} is not complete on this machine, because the hub did not answer all requests:"
            f" {folder} lacks {lacking[0]}. Try again"
        )


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Convert errors in the block, such as the OSErrors of huggingface_hub, to InputError or NotReadyError."""
    try:
        with full_disk.explained(Path(constants.HF_HUB_CACHE), f"the model {model}"):
            yield
    except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        # If the hub fails and the cache lacks the file, huggingface_hub raises LocalEntryNotFoundError. Its __cause__
        # is the hub's error.
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        if _will_stay(cause):
            raise InputError(
                f"no model {model}: there is no such folder, and the hub says: {reason}; check the name and HF_TOKEN"
            ) from error
        raise NotReadyError(
            f"the model {model} is not on this machine, and the hub does not answer ({reason}): check the network, or"
            " give a folder that contains the model"
        ) from error


def _will_stay(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status < 500 and status not in _MAY_PASS
    return isinstance(error, _WILL_STAY)
