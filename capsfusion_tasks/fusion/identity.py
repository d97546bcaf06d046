"""Derives decoding settings from settings and model files. Finds the model of recorded decoding settings."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.decoding import BUNDLED, KNOBS, Decoding
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.file_digests import content_digests
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_files import eos_token_ids, model_folder
from capsfusion_tasks.fusion.model_tokenizer import load_tokenizer, tokenizer_digest
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.fusion.template import PAPER, Template
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.fusion.weight_files import weight_files
from capsfusion_tasks.settings import Settings


def decide(settings: Settings, device: Literal["cpu", "gpu"] | None = None) -> Decoding:
    """The decoding settings that follow from ``settings``.

    ``device`` is the device that will run the model. By default, it is the device of the settings. The dtype "auto"
    depends on the device. A local model is identified by its content, a hub model by its commit. From the hub, this
    function downloads only the configuration and the tokenizer. Raises InputError if the model is missing or lacks a
    file, or if the prompt file is not a template.
    """
    folder, template = configured_model(settings)
    local = Path(settings.model).is_dir()
    commit = "" if local else folder.name  # the path of a downloaded model ends in snapshots/<commit>
    hub_name = settings.model.partition("@")[0]
    path = BUNDLED if folder == BUNDLED_MODEL else str(folder.absolute())
    return Decoding.of(
        model=_folder_name(folder) if local else hub_name,
        model_revision=commit,
        location=path if local else f"{hub_name}@{commit}",
        model_digest=_folder_digest(folder, settings) if local else _commit_digest(folder),
        prompt_digest=template.digest(MAX_PROMPT_TOKENS),
        prompt=None if template == PAPER else template.text,
        tokenizer_digest=tokenizer_digest(folder, template),
        dtype=settings.dtype_on(device or settings.fusing_device),
        eos_ids=eos_token_ids(folder),
        **{name: getattr(settings, name) for name in KNOBS},
    )


def configured_model(settings: Settings) -> tuple[Path, Template]:
    """The folder of the model and the prompt template that the settings name, after a check of both.

    Reads no weights, and downloads none. Raises InputError in the same cases as ``decide``, and NotReadyError if
    the hub does not answer.
    """
    template = configured_template(settings)  # read first, so that a wrong prompt is reported before a download
    folder = model_folder(settings.model, weights=Path(settings.model).is_dir())
    check_model(folder, engine=settings.engine, max_new_tokens=settings.max_new_tokens, template=template)
    return folder, template


def _folder_name(folder: Path) -> str:
    """A name for the folder: the last two parts of its path. Exports and data set cards show this name."""
    return "/".join(Path(os.path.abspath(folder)).parts[1:][-2:])


def locate(decoding: Decoding, settings: Settings) -> str:
    """Where the model of ``decoding`` is: a folder on this machine, or a hub id with a commit.

    A hub model is not downloaded here, but by the ranks. For a local model, tries the folder that planning used, then
    CAPSFUSION_MODEL. The folder's files must have the digest that planning recorded. Raises InputError if neither
    folder has these files.
    """
    if decoding.model_revision:
        return decoding.location
    planned = str(BUNDLED_MODEL) if decoding.location == BUNDLED else decoding.location
    problems = []
    for place in dict.fromkeys((planned, settings.model)):
        if not Path(place).is_dir():
            problems.append(f"there is no folder {place}")
        elif _folder_digest(model_folder(place), settings) == decoding.model_digest:
            return place
        else:
            problems.append(f"{place} has other files now")
    raise InputError(
        f"the model {decoding.model} of fusion {decoding.fusion_id} cannot be loaded here: {'; '.join(problems)}. Put"
        f" its files at {planned}, or set CAPSFUSION_MODEL to a folder with the same files"
    )


def configured_template(settings: Settings) -> Template:
    """The prompt template that the settings name. Raises InputError if its file is not a template."""
    return PAPER if settings.prompt is None else Template.read(settings.prompt)


def template_of(decoding: Decoding) -> Template:
    """The prompt template of ``decoding``."""
    return PAPER if decoding.prompt is None else Template.of(decoding.prompt)


def tokenizer_of(decoding: Decoding, settings: Settings) -> Tokenizer | None:
    """The tokenizer of the model CAPSFUSION_MODEL.

    None if this model is missing, or if its tokenizer is not the tokenizer of ``decoding``.
    """
    try:
        folder = model_folder(settings.model, weights=False)
        same = tokenizer_digest(folder, template_of(decoding)) == decoding.tokenizer_digest
    except (InputError, NotReadyError):  # planned units may use another model, so CAPSFUSION_MODEL may be missing
        return None
    return load_tokenizer(folder) if same else None


def _folder_digest(folder: Path, settings: Settings) -> str:
    """Digest of the configuration and all weights in ``folder``.

    Reads whole files, because two fine-tuned models may differ only in the middle of one file.
    """
    digest = hashlib.blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for file, content in content_digests(weight_files(folder), settings.home / "weights_digests.json").items():
        digest.update(f"{file.name} {content}".encode())
    return digest.hexdigest()


def _commit_digest(folder: Path) -> str:
    return _digest((folder / "config.json").read_bytes() + folder.name.encode())


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
