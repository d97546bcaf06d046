"""Finds the tokenizer of a model folder: tokenizer.model (sentencepiece), or else tokenizer.json."""

from __future__ import annotations

import hashlib
from pathlib import Path

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer, Tokenizer, is_tiktoken

FILES = ("tokenizer.model", "tokenizer.json")
_START = 4096  # number of bytes that are enough to recognise the format of a tokenizer.model


def tokenizer_file(folder: Path) -> Path:
    """The file with the folder's tokenizer. Raises InputError if there is no such file.

    If the folder has both tokenizer.model and tokenizer.json, the result is tokenizer.model, unless that is a tiktoken
    file. tokenizer.model is read with sentencepiece, because transformers 5 gives wrong ids for it (``tokenizer.py``).
    """
    model, as_json = (folder / name for name in FILES)
    if model.is_file() and not (as_json.is_file() and _has_tiktoken(model)):
        return model
    if as_json.is_file():
        return as_json
    raise InputError(f"{folder} has no {' or '.join(FILES)}: it is not a checkpoint in Hugging Face's layout")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of ``folder``. Raises InputError if it is missing or cannot be read."""
    file = tokenizer_file(folder)
    if file.name == FILES[0]:
        return LlamaTokenizer(file)
    # Import the library tokenizers only here, because most models do not need it.
    from capsfusion_tasks.fusion.json_tokenizer import JsonTokenizer

    return JsonTokenizer(folder)


def tokenizer_digest(folder: Path) -> str:
    """A digest of the tokenizer's file. No other file affects a text's tokens."""
    return hashlib.blake2b(tokenizer_file(folder).read_bytes(), digest_size=16).hexdigest()


def _has_tiktoken(file: Path) -> bool:
    with file.open("rb") as stream:
        return is_tiktoken(stream.read(_START))
