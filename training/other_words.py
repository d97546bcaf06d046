"""Words for training pairs: common English words and nonsense words."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import sentencepiece

from capsfusion_tasks.demo.pairs import MadePair
from capsfusion_tasks.demo.pairs.words import VOCABULARY
from capsfusion_tasks.validation.text import FUNCTION_WORDS

_COMMON_WORDS = 50_000
_WORD = re.compile(r"[^\W\d_]{3,}")


def common_words() -> list[str]:
    """Frequent English words of at least three letters, most frequent first, from the package wordfreq."""
    from wordfreq import top_n_list

    words = [word for word in top_n_list("en", _COMMON_WORDS) if word.isascii() and word.isalpha() and len(word) > 2]
    return [word for word in words if word not in FUNCTION_WORDS]


class OtherWords:
    """Replaces words of a pair. A word gets the same replacement in all three captions.

    The vocabulary of the generator (`make_pair`) is small. Pairs with unusual words teach the model to copy any word.
    Without such pairs, the model writes a word of the generator's vocabulary in place of a word that it has not seen.
    """

    def __init__(self, rng: random.Random, tokenizer_file: Path) -> None:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
        pieces = [processor.id_to_piece(number) for number in range(processor.vocab_size())]
        self.rng = rng
        self.starts = [piece[1:] for piece in pieces if piece[:1] == "\u2581" and piece[1:].isalpha()]
        self.words = [start for start in self.starts if len(start) > 2]
        self.rests = [piece for piece in pieces if piece.isalpha() and len(piece) > 1]
        self.common = common_words()
        self.participles = [
            word for word in self.common if word.endswith("ing") and len(word) > 5 and "thing" not in word
        ]

    def word(self) -> str:
        """A random word: a common English word, a token, a word of the generator, or a nonsense word made of tokens."""
        kind = self.rng.random()
        if kind < 0.55:  # draws the most frequent words more often
            return self.common[int(len(self.common) * self.rng.random() ** 2)]
        if kind < 0.7:
            return self.rng.choice(self.words).lower()
        if kind < 0.75:
            return self.rng.choice(VOCABULARY)
        return (
            self.rng.choice(self.starts) + "".join(self.rng.choices(self.rests, k=self.rng.choice((1, 1, 2))))
        ).lower()

    def participle(self) -> str:
        """A word that ends in -ing, usually a participle."""
        return self.participles[int(len(self.participles) * self.rng.random() ** 2)]

    def replace(self, pair: MadePair) -> MadePair:
        """Replace, in all three captions, some of the words that the fused caption takes from its two sources."""
        shared = set(_WORD.findall(pair.fused.lower())) & set(_WORD.findall(f"{pair.raw} {pair.synthetic}".lower()))
        part = self.rng.choice((0.2, 0.5, 0.9))
        other = {word: self.word() for word in sorted(shared - FUNCTION_WORDS) if self.rng.random() < part}

        def written(match: re.Match[str]) -> str:
            found = match[0]
            word = other.get(found.lower(), found)
            if word is found or found.islower():
                return word
            return word.upper() if found.isupper() else word.capitalize()

        raw, synthetic, fused = (_WORD.sub(written, text) for text in (pair.raw, pair.synthetic, pair.fused))
        return replace(pair, raw=raw, synthetic=synthetic, fused=fused)
