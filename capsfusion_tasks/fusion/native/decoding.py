"""Beam search for rows of a batch that started at different times. A row is a prompt, which gets one caption.

Generates the same tokens as transformers' ``generate``. Source of the algorithm: ``GenerationMixin._beam_search`` of
transformers 5, with ``early_stopping=False``. Scores are sums of log-probabilities in float32. A finished caption's
score is divided by its length ** ``length_penalty``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1.0e9  # the score of candidates that must not be chosen, as in the library transformers
_BLOCK = 64  # number of logits per block; ``_top_k`` first compares the maxima of the blocks


@dataclass(frozen=True)
class Decoded:
    """The best caption of a row: its tokens, including EOS if generated, and its mean log-probability.

    ``others`` are the tokens of the row's other finished captions, ordered from best to worst.
    """

    token_ids: list[int]
    score: float
    others: tuple[list[int], ...] = ()


class BeamSearch:
    """The state of beam search in N slots of the batch. Each slot has one row.

    A slot has the row's B running beams (unfinished captions), and the row's B best finished captions. A caption has at
    most G tokens. Each of ``eos_ids`` counts as EOS. With one beam, this is greedy decoding: each step takes the
    likeliest token, until EOS. In shapes, K is the number of slots that a call handles, and V the number of logits per
    beam.
    """

    def __init__(
        self,
        *,
        slots: int,
        beams: int,
        max_new_tokens: int,
        eos_ids: Sequence[int],
        device: torch.device,
        keep_beams: bool = False,
        length_penalty: float = 1.0,
    ) -> None:
        self.beams, self.max_new_tokens, self.eos_ids = beams, max_new_tokens, tuple(eos_ids)
        self.kept = beams if keep_beams else 1  # number of finished captions that ``best`` returns for each row
        # Number of candidates (a beam with one more token) per row and step, as in transformers: enough for B running
        # beams, even if the best tokens of each beam are EOS.
        self.candidates = max(2, 1 + len(self.eos_ids)) * beams
        self.length_penalty = length_penalty
        tokens = torch.zeros(slots, beams, max_new_tokens, device=device, dtype=torch.long)
        self.length = torch.zeros(slots, device=device, dtype=torch.long)  # [N] number of tokens generated so far
        self.limit = torch.full_like(self.length, max_new_tokens)  # [N] maximum number of tokens of the row's caption
        self.tokens = tokens  # [N, B, G]
        self.scores = torch.zeros(slots, beams, device=device)  # [N, B]
        self.finished_tokens = tokens.clone()  # [N, B, G], the best caption of a slot first
        self.finished_length = torch.zeros(slots, beams, device=device, dtype=torch.long)  # [N, B]; 0: no caption
        self.finished_scores = torch.zeros(slots, beams, device=device)  # [N, B]
        self.done = torch.zeros(slots, device=device, dtype=torch.bool)  # [N] whether the row's search has ended

    def start(self, slots: Tensor, limits: Tensor) -> None:
        """Reset ``slots`` [K] for new rows. ``limits`` [K]: the maximum length of each row's caption, in tokens."""
        self.length[slots] = 0
        self.limit[slots] = limits
        self.scores[slots] = _NEVER
        # At first all beams are equal, so all have the same candidates. Only those of the first beam may be chosen, so
        # that no candidate is chosen B times.
        self.scores[slots, 0] = 0.0
        self.finished_length[slots] = 0
        self.finished_scores[slots] = _NEVER

    def step(self, slots: Tensor, logits: Tensor) -> Tensor:
        """Append a token to each beam of ``slots`` [K], given ``logits`` [K, B, V].

        Returns the parent [K, B] of each beam: the beam that it continues. Sets ``done`` for rows whose search has
        ended.
        """
        length = self.length[slots] + 1  # [K], number of generated tokens of each row, including the new token
        log_probs = F.log_softmax(logits, dim=-1, dtype=torch.float32)
        if self.beams == 1:
            return self._greedy_step(slots, length, log_probs)
        b = self.beams
        own = min(self.candidates, log_probs.shape[-1])  # O: number of candidates of one beam
        c = min(self.candidates, b * own)  # C: number of candidates of all beams
        top, token = _top_k(log_probs, own)  # [K, B, O]
        scores, choice = (top + self.scores[slots, :, None]).flatten(1).topk(c)  # [K, C]
        parent, token = choice // own, token.flatten(1).gather(1, choice)  # [K, C]
        candidates = _append(_pick(self.tokens[slots], parent), length, token)  # [K, C, G]
        ends = self._is_eos(token) | (length == self.limit[slots])[:, None]  # [K, C]

        running, choice = (scores + ends * _NEVER).topk(b)  # [K, B]
        self.scores[slots] = running
        self.tokens[slots] = _pick(candidates, choice)

        # As in transformers, only the B best candidates may become finished captions. The other candidates may only
        # become running beams.
        ends_well = ends & (torch.arange(c, device=ends.device) < b)
        per_token = torch.where(ends_well, scores / length[:, None] ** self.length_penalty, _NEVER)
        finished_scores, best = torch.cat((self.finished_scores[slots], per_token), dim=1).topk(b)  # [K, B]
        finished_tokens = torch.cat((self.finished_tokens[slots], candidates), dim=1)  # [K, B + C, G]
        finished_length = torch.cat((self.finished_length[slots], ends_well * length[:, None]), dim=1).gather(1, best)
        self.finished_tokens[slots] = _pick(finished_tokens, best)
        self.finished_scores[slots], self.finished_length[slots] = finished_scores, finished_length

        # transformers' heuristic for early_stopping=False: a row's search ends if the best running beam is no better
        # than the worst of the row's B finished captions. For this comparison, the running beam's score is divided by
        # its current length ** ``length_penalty``.
        hopeless = running[:, 0] / length**self.length_penalty <= finished_scores[:, -1]
        self.done[slots] = ((finished_length > 0).all(dim=1) & hopeless) | ends.all(dim=1)
        self.length[slots] = length
        return parent.gather(1, choice)

    def _greedy_step(self, slots: Tensor, length: Tensor, log_probs: Tensor) -> Tensor:
        score, token = log_probs[:, 0].max(dim=-1)  # [K]
        tokens = _append(self.tokens[slots], length, token[:, None])
        scores = self.scores[slots] + score[:, None]
        self.tokens[slots] = self.finished_tokens[slots] = tokens
        self.scores[slots], self.finished_scores[slots] = scores, scores / length[:, None] ** self.length_penalty
        self.length[slots], self.finished_length[slots] = length, length[:, None]
        self.done[slots] = self._is_eos(token) | (length == self.limit[slots])
        return torch.zeros_like(length)[:, None]

    def _is_eos(self, token: Tensor) -> Tensor:
        ends = token == self.eos_ids[0]
        for other in self.eos_ids[1:]:
            ends |= token == other
        return ends

    def is_finite(self, slot: int) -> bool:
        """Whether all scores of the row in ``slot`` are finite. If a score ever was NaN, one of them still is NaN."""
        return bool(self.scores[slot].isfinite().all())

    def last_tokens(self, slots: Tensor) -> Tensor:
        """The last token [K, B] of each running beam of ``slots`` [K]."""
        at = (self.length[slots] - 1).clamp(0, self.max_new_tokens - 1)  # [K]
        return self.tokens[slots].gather(2, at[:, None, None].expand(-1, self.beams, 1))[..., 0]

    def best(self, slots: list[int]) -> list[Decoded]:
        """The captions of ``slots``. The search in all of these slots must have ended (``done``)."""
        at, kept = torch.tensor(slots, device=self.done.device), self.kept
        scores = self.finished_scores[at, 0].tolist()
        lengths, tokens = self.finished_length[at, :kept, None], self.finished_tokens[at, :kept]
        rows = torch.cat((lengths, tokens), dim=2).tolist()  # one copy from the device to the host
        # Keep the first caption even if it is empty: a row whose scores are not finite may have no finished caption.
        captions = [[ids[:length] for n, (length, *ids) in enumerate(row) if length or not n] for row in rows]
        return [Decoded(best, score, (*others,)) for (best, *others), score in zip(captions, scores, strict=True)]


def _pick(x: Tensor, index: Tensor) -> Tensor:
    """From each matrix of ``x`` [K, M, G], pick the rows in ``index`` [K, J]. Returns [K, J, G]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


def _append(tokens: Tensor, length: Tensor, token: Tensor) -> Tensor:
    """``tokens`` [K, J, G] with ``token`` [K, J] appended. ``length`` [K] is the length including the new token."""
    at = (length - 1).clamp(max=tokens.shape[-1] - 1)[:, None, None].expand(-1, tokens.shape[1], 1)
    return tokens.scatter(2, at, token[..., None])


def _top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``x.topk(k)`` over a long last dimension, in one pass over ``x`` instead of a partial sort.

    The k largest numbers are in the k blocks with the largest maxima.
    """
    if x.shape[-1] % _BLOCK or x.shape[-1] // _BLOCK < k:
        return x.topk(k)
    blocks = x.view(*x.shape[:-1], -1, _BLOCK)  # [..., V / 64, 64]
    block = blocks.amax(dim=-1).topk(k)[1]  # [..., k]
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, _BLOCK)).flatten(-2)  # [..., k * 64]
    values, at = inside.topk(k)
    return values, block.gather(-1, at // _BLOCK) * _BLOCK + at % _BLOCK
