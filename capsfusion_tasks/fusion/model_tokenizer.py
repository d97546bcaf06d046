"""Finds the tokenizer of a model folder: tokenizer.model (sentencepiece), or else tokenizer.json.

A fine-tuned model can have added tokens, which tokenizer.model lacks. They are read from the folder's other files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.json_files import read_object
from capsfusion_tasks.fusion.template import PAPER, Template
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer, Tokenizer, is_tiktoken

FILES = ("tokenizer.model", "tokenizer.json")
_START = 4096  # number of bytes that are enough to recognise the format of a tokenizer.model


def tokenizer_file(folder: Path) -> Path:
    """The file with the folder's tokenizer. Raises InputError if there is no such file.

    If the folder has both tokenizer.model and tokenizer.json, the result is tokenizer.model, unless tokenizer.model is
    a tiktoken file. tokenizer.model is read with sentencepiece, because transformers 5 gives wrong ids for it
    (``tokenizer.py``).
    """
    model, as_json = (folder / name for name in FILES)
    if model.is_file() and not (as_json.is_file() and _has_tiktoken(model)):
        return model
    if as_json.is_file():
        return as_json
    raise InputError(f"{folder} has no {' or '.join(FILES)}: give a folder with a checkpoint in Hugging Face's layout")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``. Raises InputError if it is missing or cannot be read."""
    file = tokenizer_file(folder)
    if file.name == FILES[0]:
        return LlamaTokenizer(file, _added_tokens(folder))
    # Import the library ``tokenizers`` only here, because most models do not need this library.
    from capsfusion_tasks.fusion.json_tokenizer import JsonTokenizer

    return JsonTokenizer(folder)


def tokenizer_digest(folder: Path, template: Template = PAPER) -> str:
    """A digest of the tokenizer's file, and of the added tokens that occur in ``template``.

    Nothing else affects a prompt's tokens. The digest is part of the fusion_id, so it must not change if the prompt's
    tokens stay the same. Therefore added tokens that are not in the prompt, such as [PAD], do not count.
    """
    digest = hashlib.blake2b(tokenizer_file(folder).read_bytes(), digest_size=16)
    tokenizer, written = load_tokenizer(folder), "\0".join(text for text, _ in template.parts)
    control = tokenizer.control_tokens.items()
    if added := sorted((name, i) for name, i in control if i >= tokenizer.vocab_size and name in written):
        digest.update(json.dumps(added).encode())
    return digest.hexdigest()


def _added_tokens(folder: Path) -> dict[str, int]:
    """The model's added tokens: name → id. Reads three files, because transformers' versions use different files."""
    files = [folder / name for name in ("added_tokens.json", "tokenizer_config.json", FILES[1])]
    names, config, whole = (read_object(file) if file.is_file() else {} for file in files)
    decoder, listed = config.get("added_tokens_decoder"), whole.get("added_tokens")
    found: list[tuple[Any, Any]] = [*names.items()]
    if isinstance(decoder, dict):
        found += [(_get(token, "content"), int(i) if i.isdecimal() else None) for i, token in decoder.items()]
    if isinstance(listed, list):
        found += [(_get(token, "content"), _get(token, "id")) for token in listed]
    return {name: i for name, i in found if isinstance(name, str) and name and type(i) is int}


def _get(token: Any, entry: str) -> Any:
    return token.get(entry) if isinstance(token, dict) else None


def _has_tiktoken(file: Path) -> bool:
    with file.open("rb") as stream:
        return is_tiktoken(stream.read(_START))
