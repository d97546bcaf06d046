"""Training data: the tokenizer, a file with the token ids of generated pairs, and batches."""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from torch import Tensor

from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.fusion.prompt import build_prompt
from capsfusion_tasks.fusion.template import PROMPT_TEMPLATE
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.caption_rules import control_characters, repetition, restated, truncated
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.source_rules import concatenation, copy
from training.free_pairs import FreePairs
from training.other_words import OtherWords

# Validation rules that every target (the fused caption to learn) must pass, so that the model does not learn to break
# them.
_RULES = (repetition, restated, truncated, control_characters, concatenation, copy)
_TARGET_TOKENS = 78  # maximum length of a target, with its end token; decoding stops at 80 tokens


def template_symbols() -> list[str]:
    """The three parts of the prompt template around the captions.

    Each part becomes a single token, which saves 130 tokens per prompt.
    """
    start, rest = PROMPT_TEMPLATE.split(" {laion_2b}")
    middle, end = rest.split(" {laion_coco}")
    return [("\u2581" + start).replace(" ", "\u2581"), middle.replace(" ", "\u2581"), end.replace(" ", "\u2581")]


def train_tokenizer(work: Path, vocab_size: int, texts: int, seed: int) -> None:
    """Train a SentencePiece BPE tokenizer on generated pairs, with LLaMA's settings.

    These settings are: no normalization ("identity"), bytes for unknown characters, and a token for each digit.
    """
    rng = random.Random(seed)

    def lines() -> Iterator[str]:
        for _ in range(texts):
            pair = make_pair(rng, "train")
            yield from (pair.raw, pair.synthetic, pair.fused)

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(),
        model_prefix=str(work / "tokenizer"),
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        character_coverage=0.9999,
        max_sentence_length=65536,
        user_defined_symbols=template_symbols(),
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=2,
        minloglevel=1,
    )


def _encode_share(job: tuple[Path, int, int, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of `count` pairs in one array, and the lengths of their prompts and targets [count, 2]."""
    tokenizer_file, seed, count, other_share, free_share = job
    tokenizer, rng = LlamaTokenizer(tokenizer_file), random.Random(seed)
    other_words = OtherWords(rng, tokenizer_file)
    free_pairs, settings = FreePairs(rng, other_words.word, other_words.participle), RuleSettings()
    ids: list[np.ndarray] = []
    lengths = np.zeros((count, 2), np.int32)
    row = 0
    while row < count:
        if rng.random() < free_share:
            pair = free_pairs.pair()
        else:
            pair = make_pair(rng, "train")
            pair = other_words.replace(pair) if rng.random() < other_share else pair
        fused = Fused(pair.raw, pair.synthetic, pair.fused)
        target = [*tokenizer.encode(pair.fused, bos=False), tokenizer.eos_id]
        if len(target) > _TARGET_TOKENS or any(rule(fused, settings) for rule in _RULES):
            continue
        prompt = tokenizer.encode(build_prompt(pair.raw, pair.synthetic))
        ids.append(np.array(prompt + target, np.uint16))
        lengths[row] = len(prompt), len(target)
        row += 1
    return np.concatenate(ids), lengths


def make_pairs_file(work: Path, pairs: int, seed: int, workers: int, other_share: float, free_share: float) -> None:
    """Write pairs.npz, the token ids of all training pairs.

    A share `free_share` of the pairs has random words (`FreePairs`). The other pairs describe scenes (`make_pair`). In
    a share `other_share` of the scenes, random words replace the generator's words (`OtherWords`). Each of the
    `workers` processes makes 20,000 pairs at a time.
    """
    share = 20_000
    jobs = [
        (work / "tokenizer.model", seed + 1 + number, share, other_share, free_share)
        for number in range(math.ceil(pairs / share))
    ]
    with multiprocessing.Pool(workers) as pool:
        parts = pool.map(_encode_share, jobs, chunksize=1)
    ids, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    np.savez(work / "pairs.npz", ids=ids, lengths=lengths)
    whole = lengths.sum(1)
    print(f"{len(lengths):,} pairs, {whole.sum():,} tokens; tokens a pair: mean {whole.mean():.1f}", end=", ")
    print(f"p99 {np.percentile(whole, 99):.0f}, prompt {lengths[:, 0].mean():.1f}, target {lengths[:, 1].mean():.1f}")


# Sequences are padded to one of these lengths, which keeps the number of shapes for torch.compile small.
BUCKETS = (48, 64, 80, 96, 128, 192, 256)


class Pairs:
    """Batches of pairs of similar length: ids [B, S], padded on the right with 0, and the positions of the targets.

    Attention is causal, so padding on the right needs no mask.
    """

    def __init__(self, file: Path, tokens_per_batch: int, seed: int) -> None:
        with np.load(file) as arrays:
            self.ids, self.lengths = arrays["ids"], arrays["lengths"]
        self.whole = self.lengths.sum(1)
        self.starts = np.concatenate([[0], np.cumsum(self.whole)[:-1]])
        self.tokens_per_batch, self.seed = tokens_per_batch, seed

    def ids_of(self, row: int) -> np.ndarray:
        """Token ids of a pair's prompt and target."""
        ids: np.ndarray = self.ids[self.starts[row] : self.starts[row] + self.whole[row]]
        return ids

    def batches(self, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
        """Yield batches forever, starting at batch number `first`.

        A batch is (inputs [B, S], positions in [B*S] that count in the loss, target ids at these positions, number of
        tokens).
        """
        number = 0
        for epoch in range(1_000_000):
            order = np.random.default_rng(self.seed + epoch).permutation(len(self.whole))
            for rows in self._grouped(order):
                if number >= first:
                    yield self.tensors(rows)
                number += 1

    def _grouped(self, order: np.ndarray) -> Iterator[np.ndarray]:
        """Collect rows of similar length in buckets, and yield the rows of a bucket when they fill a batch.

        Skips pairs longer than the largest bucket. Drops incomplete batches at the end of an epoch.
        """
        waiting: dict[int, list[int]] = {bucket: [] for bucket in BUCKETS}
        for row in order:
            bucket = next((b for b in BUCKETS if self.whole[row] <= b + 1), None)  # the last token is not an input
            if bucket is None:
                continue
            waiting[bucket].append(row)
            if len(waiting[bucket]) == self.tokens_per_batch // bucket:
                yield np.array(waiting[bucket])
                waiting[bucket] = []

    def tensors(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor, int]:
        """Build the batch of these rows; see `batches`."""
        longest = int(self.whole[rows].max()) - 1
        length = next(b for b in BUCKETS if longest <= b)
        inputs = np.zeros((len(rows), length), np.int64)
        positions, targets = [], []
        for place, row in enumerate(rows):
            prompt, whole = self.lengths[row, 0], self.whole[row]
            ids = self.ids_of(row).astype(np.int64)
            inputs[place, : whole - 1] = ids[:-1]
            positions.append(place * length + np.arange(prompt - 1, whole - 1))
            targets.append(ids[prompt:])
        return (
            torch.from_numpy(inputs),
            torch.from_numpy(np.concatenate(positions)),
            torch.from_numpy(np.concatenate(targets)),
            int(self.whole[rows].sum()),
        )
