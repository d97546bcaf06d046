"""The interface of tokenizers, and LLaMA's tokenizer: sentencepiece with the model's own ``tokenizer.model``.

The tokenizer of transformers 5 is not used, because it makes two errors if it has only ``tokenizer.model``: it gives
wrong ids for double spaces (in 3.7% of real prompts), and it reads ``</s>`` inside a web caption as the control token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

from sentencepiece import SentencePieceProcessor

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.json_files import read_bytes

_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")  # a line of a tiktoken file: a token in base64, and its rank


class Tokenizer(Protocol):
    """Converts text to token ids and back.

    ``bos_id`` is the id of the token that begins a text (None: there is no such token). ``eos_id`` is the id of the
    token that ends a text (-1: there is no such token). ``pad_id`` only fills up batches, and attention masks it. All
    ids are below ``vocab_size``, except those of control tokens that a fine-tune has added. ``control_tokens`` maps the
    names of control tokens, such as "<|im_start|>", to their ids. ``encode`` may return BOS, but no other control
    token.
    """

    @property
    def bos_id(self) -> int | None: ...

    @property
    def eos_id(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def control_tokens(self) -> Mapping[str, int]: ...

    def encode(self, text: str, *, bos: bool = True) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...


class LlamaTokenizer:
    """Converts text to token ids and back, with the tokenizer that LLaMA was trained with.

    ``eos_id`` ends a caption (-1: there is none). ``pad_id`` only fills up batches, and attention masks it. ``added``:
    name → id of tokens that a fine-tune has added above the sentencepiece vocabulary, such as "<|im_start|>". Raises
    InputError for a file that is not a sentencepiece model, or has no token for the start of a text (BOS) or for
    unknown text.
    """

    def __init__(self, model_file: Path | str, added: Mapping[str, int] | None = None) -> None:
        self._processor = _load(Path(model_file))
        self._added = added or {}
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.pad_id: int = self._processor.unk_id()
        self.vocab_size: int = self._processor.vocab_size()
        if self.bos_id < 0:
            raise InputError(
                f"{model_file} has no token that begins a text (BOS), so it is not LLaMA's tokenizer: use the"
                " tokenizer.model that belongs to the model"
            )
        if self.pad_id < 0:
            raise InputError(f"{model_file} has no token for unknown text: it is damaged. Download it again")

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        own = _control_tokens(self._processor)
        return own | {name: i for name, i in self._added.items() if i >= self.vocab_size}

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Token ids of ``text``. The name of a control token in ``text`` ("</s>") is encoded as plain text."""
        ids: list[int] = self._processor.encode(text)
        return [self.bos_id, *ids] if bos else ids

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``. Ignores control tokens and ids outside the vocabulary, such as an added [PAD]."""
        text: str = self._processor.decode([i for i in ids if 0 <= i < self.vocab_size])
        return text


def is_tiktoken(start: bytes) -> bool:
    """Whether a tokenizer.model that begins with ``start`` is a token list of tiktoken, not a sentencepiece model."""
    return _TIKTOKEN.match(start) is not None


def _load(file: Path) -> SentencePieceProcessor:
    content = read_bytes(file)
    if not content:
        raise InputError(f"{file} is empty: download it again")
    if is_tiktoken(content):
        raise InputError(
            f"{file} is a tiktoken file, like LLaMA 3's: expected LLaMA 2's sentencepiece model, or a tokenizer.json"
        )
    try:
        return _processor_of(content)
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(f"{file} is not a sentencepiece model, or is cut off: download it again") from error


# Results of these two functions are cached, because a process loads the same tokenizer several times: to hash it, for
# the prompt, and to count tokens. Searching LLaMA's 32,000 tokens for control tokens takes 26 ms.
@lru_cache(maxsize=4)
def _processor_of(content: bytes) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=content)


@lru_cache(maxsize=4)
def _control_tokens(processor: SentencePieceProcessor) -> dict[str, int]:
    return {processor.id_to_piece(i): i for i in range(processor.vocab_size()) if processor.is_control(i)}
