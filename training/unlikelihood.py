"""Sequence-level unlikelihood training (Welleck et al., 2019) against loops (repeated phrases in a caption).

The model decodes captions of training pairs. If a caption repeats a phrase that its target does not repeat, the
phrase's tokens get the loss -log(1 - p(token)). So that the model does not forget what it has learned, each step adds
the usual loss, both on the targets of these pairs and on other pairs. Decoding and training alternate: after
`STEPS_A_ROUND` training steps, the next round begins with decoding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.decoding import greedy
from training.llama import Backbone
from training.optimization import schedule, target_loss
from training.pairs_file import BUCKETS, Pairs

PHRASE = 4  # a phrase of this many tokens counts as a loop if it occurs twice
NEW_TOKENS = 80
ROWS_A_ROUND = 384  # captions to decode in a round
ROWS_A_DECODING = 48  # captions to decode at once; their prompts have the same length
STEPS_A_ROUND = 6
WARMUP = 20  # steps
LOOPS_A_STEP = 12  # maximum number of looping captions in a training step


@dataclass(frozen=True)
class Loop:
    """A decoded caption that loops. ``row`` is the index of its pair in the pairs file.

    ``ids`` are the tokens of the prompt and the caption, and ``prompt`` is the length of the prompt. ``places`` are
    the positions, counted from the caption's start, of the tokens that repeat an earlier phrase.
    """

    row: int
    ids: list[int]
    prompt: int
    places: list[int]


def looping_places(caption: list[int], target: list[int]) -> list[int]:
    """Positions of tokens in `caption` that repeat an earlier phrase, unless `target` also repeats this phrase."""
    phrases = [tuple(target[start : start + PHRASE]) for start in range(len(target) - PHRASE + 1)]
    repeated = {phrase for phrase in phrases if phrases.count(phrase) > 1}
    seen: set[tuple[int, ...]] = set()
    places: set[int] = set()
    for start in range(len(caption) - PHRASE + 1):
        phrase = tuple(caption[start : start + PHRASE])
        if phrase in seen and phrase not in repeated:
            places.update(range(start, start + PHRASE))
        seen.add(phrase)
    return sorted(places)


def unlikelihood_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean of -log(1 - p(token)) over N tokens, given logits [N, vocabulary] and token ids [N]."""
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    others = logits.scatter(1, tokens[:, None], -torch.inf).logsumexp(1)
    return F.softplus(chosen - others).mean()  # = -log(1 - p), as 1 - p is the probability of all other tokens


class LoopFinder:
    """Decodes captions for the pairs of a pairs file, and finds the captions that loop."""

    def __init__(self, pairs: Pairs, eos: int, seed: int) -> None:
        self.pairs, self.eos, self.rng = pairs, eos, np.random.default_rng(seed)
        prompts = pairs.lengths[:, 0]
        self.rows_of = {int(length): np.flatnonzero(prompts == length) for length in np.unique(prompts)}
        fitting = [length for length, rows in self.rows_of.items() if len(rows) >= ROWS_A_DECODING]
        self.prompt_lengths = [length for length in fitting if length + NEW_TOKENS <= BUCKETS[-1]]
        self.weights = np.array([len(self.rows_of[length]) for length in self.prompt_lengths], float)

    def round(self, model: Backbone, dtype: torch.dtype) -> list[Loop]:
        """Decode captions for `ROWS_A_ROUND` random pairs. Returns the captions that loop."""
        found: list[Loop] = []
        for _ in range(ROWS_A_ROUND // ROWS_A_DECODING):
            length = int(self.rng.choice(self.prompt_lengths, p=self.weights / self.weights.sum()))
            rows = self.rng.choice(self.rows_of[length], ROWS_A_DECODING, replace=False)
            ids = [self.pairs.ids_of(int(row)) for row in rows]
            prompts = torch.from_numpy(np.stack([each[:length] for each in ids]).astype(np.int64))
            device = model.embed_tokens.weight.device
            captions = greedy(model, prompts.to(device), NEW_TOKENS, self.eos, dtype)
            for row, each, caption in zip(rows.tolist(), ids, captions, strict=True):
                places = looping_places(caption, each[length:].tolist())
                if places:
                    found.append(Loop(row, each[:length].tolist() + caption, length, places))
        return found

    def sample(self, loops: list[Loop]) -> list[Loop]:
        """A random choice of `loops` for one training step."""
        chosen = self.rng.choice(len(loops), min(len(loops), LOOPS_A_STEP), replace=False)
        return [loops[place] for place in chosen]


def _batch(loops: list[Loop]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs [B, S], positions in [B*S] that predict a looping token, and these tokens."""
    longest = max(len(loop.ids) for loop in loops) - 1
    width = next(bucket for bucket in BUCKETS if longest <= bucket)
    inputs = torch.zeros(len(loops), width, dtype=torch.long)
    positions, tokens = [], []
    for row, loop in enumerate(loops):
        inputs[row, : len(loop.ids) - 1] = torch.tensor(loop.ids[:-1])
        positions += [row * width + loop.prompt + place - 1 for place in loop.places]
        tokens += [loop.ids[loop.prompt + place] for place in loop.places]
    return inputs, torch.tensor(positions), torch.tensor(tokens)


def _hidden(model: Backbone, inputs: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    hidden: Tensor = model(inputs, dtype).flatten(0, 1)[positions]
    return hidden


@dataclass(frozen=True)
class Unlikelihood:
    """Settings of the training. `weight`: weight of the loss of looping captions; that of other pairs has weight 1."""

    minutes: float
    weight: float
    batch_tokens: int
    seed: int


@dataclass(frozen=True)
class Round:
    """Figures after a round of decoding and training. `steps`, `tokens` and `minutes` are totals of all rounds so far.

    The other figures are those of this round: `loops` is the share of decoded captions that loop, `loss` and
    `unlikelihood` are mean losses.
    """

    steps: int
    tokens: int
    minutes: float
    loops: float
    loss: float
    unlikelihood: float


def train_unlikelihood(
    model: Backbone,
    updates: list[torch.optim.Optimizer],
    pairs_file: Path,
    eos: int,
    settings: Unlikelihood,
    dtype: torch.dtype,
) -> Iterator[Round]:
    """Train `model` in place, and yield the figures of each round."""
    pairs = Pairs(pairs_file, settings.batch_tokens, settings.seed)
    finder, batches = LoopFinder(pairs, eos, settings.seed), pairs.batches()
    device = model.embed_tokens.weight.device
    waiting: list[Loop] = []  # the latest looping captions, for the next training steps
    steps, tokens, started, done = 0, 0, time.monotonic(), 0.0
    while done < 1.0:
        found = finder.round(model, dtype)
        waiting = (waiting + found)[-STEPS_A_ROUND * LOOPS_A_STEP :]
        losses: list[tuple[float, float]] = []
        for _ in range(STEPS_A_ROUND):
            done = (time.monotonic() - started) / 60 / settings.minutes
            schedule(updates, steps, done, WARMUP)
            *batch, count = next(batches)
            inputs, positions, targets = (each.to(device) for each in batch)
            loops = finder.sample(waiting)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                embedding = model.embed_tokens.weight
                usual = target_loss(_hidden(model, inputs, positions, dtype), embedding, targets)
                unlikely = expected = torch.zeros((), device=device)
                if loops:
                    inputs, positions, chosen = (each.to(device) for each in _batch(loops))
                    logits = F.linear(_hidden(model, inputs, positions, dtype), embedding).float()
                    unlikely = unlikelihood_loss(logits, chosen)
                    *batch, _ = pairs.tensors(np.array([loop.row for loop in loops]))
                    inputs, positions, targets = (each.to(device) for each in batch)
                    expected = target_loss(_hidden(model, inputs, positions, dtype), embedding, targets)
            (usual + settings.weight * (unlikely + expected)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for update in updates:
                update.step()
                update.zero_grad(set_to_none=True)
            steps, tokens = steps + 1, tokens + count
            losses.append((usual.item(), unlikely.item()))
        means = [sum(column) / len(column) for column in zip(*losses, strict=True)]
        yield Round(steps, tokens, done * settings.minutes, len(found) / ROWS_A_ROUND, *means)
