"""The slots of the native engine on the device: rows come in with their prompts, move on a token a step, and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capsfusion_tasks.fusion.native.cache import BeamAttention, KVCache, PrefixAttention, PromptAttention
from capsfusion_tasks.fusion.native.decoding import BeamSearch, Decoded
from capsfusion_tasks.fusion.native.graphs import DecodeGraphs
from capsfusion_tasks.fusion.native.model import Llama


@dataclass(frozen=True)
class Prefix:
    """The tokens that all prompts begin with; their keys and values, [layers, kv_heads, P, D] each."""

    ids: list[int]
    keys: Tensor
    values: Tensor

    @classmethod
    def compute(cls, model: Llama, ids: Sequence[int]) -> Prefix:
        attention = PrefixAttention()
        batch = torch.tensor([list(ids)], device=model.device)  # [1, P]
        model.forward(batch, torch.arange(len(ids), device=model.device)[None], attention)
        return cls(list(ids), *attention.kept())


class Slots:
    """N slots of B beams. The busy ones are always the first: a step over n rows is a step over slots 0 to n - 1.

    ``prompt_tokens`` is the most that a prompt may have behind the prefix, ``max_new_tokens`` the most of a caption.
    """

    def __init__(
        self,
        model: Llama,
        prefix: Prefix,
        *,
        slots: int,
        beams: int,
        prompt_tokens: int,
        max_new_tokens: int,
        eos_id: int,
    ) -> None:
        self._model, self._prefix, self._beams = model, prefix, beams
        self._capacity = slot_capacity(prompt_tokens, max_new_tokens, beams)
        self._last_step = max(0, max_new_tokens - 2)
        self._cache = KVCache(model, (prefix.keys, prefix.values), slots=slots, beams=beams, capacity=self._capacity)
        self._search = BeamSearch(
            slots=slots, beams=beams, max_new_tokens=max_new_tokens, eos_id=eos_id, device=model.device
        )
        self._prompt_length = torch.zeros(slots, device=model.device, dtype=torch.long)  # [N], without the prefix
        self._graphs = DecodeGraphs(self._step, slots) if model.device.type == "cuda" else None

    def prefill(self, first: int, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> None:
        """Compute ``prompts`` (without the prefix) into the slots from number ``first`` on, and their first tokens.

        ``limits`` says after how many tokens each must end.
        """
        rows, device = len(prompts), self._model.device
        length = torch.tensor([len(prompt) for prompt in prompts])  # [R]
        width = int(length.max())
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts])  # [R, S], padded right
        ids, length, limit = ids.to(device), length.to(device), torch.tensor(limits).to(device)
        slots = torch.arange(first, first + rows, device=device)  # [R]

        p = len(self._prefix.ids)
        attention = PromptAttention(self._cache, slots, width)
        hidden = self._model.forward(ids, torch.arange(p, p + width, device=device), attention)  # [R, S, E]
        last = hidden[torch.arange(rows, device=device), length - 1]  # [R, E]
        logits = self._model.logits(last)[:, None].expand(-1, self._beams, -1)  # [R, B, V]
        self._prompt_length[slots] = length
        self._cache.visible[slots] = (torch.arange(self._capacity, device=device) < length[:, None])[:, None]
        self._search.start(slots, limit)
        self._search.step(slots, logits)

    def decode(self, n: int) -> None:
        """One more token for each beam of the first ``n`` slots."""
        if self._graphs is not None:
            self._graphs.replay(n)
        else:
            self._step(n)

    def finished(self, n: int) -> dict[int, Decoded]:
        """Those of the first ``n`` slots whose caption is complete, with it."""
        slots = [slot for slot, done in enumerate(self._search.done[:n].tolist()) if done]
        return dict(zip(slots, self._search.best(slots), strict=True)) if slots else {}

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copy the rows in the slots ``source`` over those in the slots ``target``."""
        sources, targets = (torch.tensor(slots, device=self._model.device) for slots in (source, target))
        self._cache.move(sources, targets)
        self._search.move(sources, targets)
        self._prompt_length[targets] = self._prompt_length[sources]

    def _step(self, n: int) -> None:
        slots, b = slice(0, n), self._beams
        # [N] tokens that are in the cache already. A slot that is not busy counts on: it must only stay in its bounds.
        generated = (self._search.length[slots] - 1).clamp(0, self._last_step)
        ids = self._search.last_tokens(slots)  # [N, B]
        position = len(self._prefix.ids) + self._prompt_length[slots] + generated  # [N]
        # Behind its prompt a slot has B places for each step.
        at = (self._prompt_length[slots] + generated * b)[:, None] + torch.arange(b, device=ids.device)  # [N, B]
        # A graph's shapes are fixed; on a CPU, places that no row has reached yet are left out.
        used = self._capacity if at.is_cuda else int(at.max()) + 1
        visible = self._cache.visible[slots].scatter_(2, at[..., None], True)  # each beam sees its own new token
        attention = BeamAttention(self._cache, at, used)
        hidden = self._model.forward(ids, position[:, None].expand(-1, b), attention)  # [N, B, E]
        parents = self._search.step(slots, self._model.logits(hidden))  # [N, B]
        visible.copy_(visible.gather(1, parents[..., None].expand(-1, -1, visible.shape[-1])))


def slot_capacity(prompt_tokens: int, max_new_tokens: int, beams: int) -> int:
    """Tokens that a slot must hold: a prompt, and what its beams generate but the last, to which nothing attends."""
    return prompt_tokens + max(1, max_new_tokens - 1) * beams
