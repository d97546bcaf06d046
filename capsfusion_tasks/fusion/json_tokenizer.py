"""Reads a tokenizer.json (LLaMA 3, Mistral, Qwen) with the library ``tokenizers``.

Encodes like transformers' AutoTokenizer, with one exception: the text of a control token in a caption
("<|im_end|>") is encoded as plain text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.json_files import read_bytes, read_object


class JsonTokenizer:
    """The tokenizer.json of ``folder``, with the special tokens that tokenizer_config.json names.

    Raises InputError for files that cannot be read, or that name a token which tokenizer.json lacks.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "tokenizer.json"
        self._backend = _load(self._file)
        self._backend.no_padding()
        self._backend.no_truncation()
        self._start = self._start_of_texts()
        self._backend.encode_special_tokens = True
        self._config = _config(folder)
        added = self._backend.get_added_tokens_decoder()
        self.control_tokens = {token.content: i for i, token in added.items() if token.special}
        self.vocab_size: int = 1 + max([*self._backend.get_vocab().values(), *added], default=-1)
        self.eos_id: int = self._named("eos_token", otherwise=-1)
        self.pad_id: int = self._named("pad_token", otherwise=max(self.eos_id, 0))

    @property
    def bos_id(self) -> int | None:
        return self._start[0] if self._start else None

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids of ``text``. The name of a control token in ``text`` is encoded as plain text."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        return [*self._start, *ids] if bos else list(ids)

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``. Ignores control tokens and ids outside the vocabulary."""
        return str(self._backend.decode([i for i in ids if 0 <= i < self.vocab_size]))

    def _start_of_texts(self) -> list[int]:
        """The ids that the post-processor adds in front of every text. Leaves out ids that it adds after a text.

        transformers 5 also uses the post-processor, and ignores ``add_bos_token`` of tokenizer_config.json.
        """
        text = "a"
        plain = self._backend.encode(text, add_special_tokens=False).ids
        whole = self._backend.encode(text).ids
        for place in range(len(whole) - len(plain) + 1):
            if whole[place : place + len(plain)] == plain:
                return list(whole[:place])
        raise InputError(
            f"the post_processor in {self._file} does not only add special tokens, but also changes the tokens of the"
            " text. This is not supported: choose another model"
        )

    def _named(self, name: str, *, otherwise: int) -> int:
        """The id of the token in the entry ``name`` of tokenizer_config.json.

        Returns ``otherwise`` if there is no such entry.
        """
        token = self._config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if token is None:
            return otherwise
        found = self._backend.token_to_id(str(token))
        if found is None:
            raise InputError(
                f"{self._file} has no token {str(token)[:50]!r}, which is the {name} of its model: download the"
                " model again"
            )
        return int(found)


def _load(file: Path) -> Backend:
    content = read_bytes(file)
    try:
        return Backend.from_str(content.decode())
    except Exception as error:  # the library ``tokenizers`` raises no more specific class of error
        reason = str(error).replace("\n", " ")[:200]
        raise InputError(
            f"{file} is not a valid tokenizer: download it again (the library `tokenizers` says: {reason})"
        ) from error


def _config(folder: Path) -> dict[str, Any]:
    """The entries of tokenizer_config.json, plus entries that only the older special_tokens_map.json has."""
    files = (folder / name for name in ("special_tokens_map.json", "tokenizer_config.json"))
    found: dict[str, Any] = {}
    for file in files:
        if file.is_file():
            found |= read_object(file)
    return found
