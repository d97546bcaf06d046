"""The slots of the native engine on the device. Each slot generates the caption of one row at a time.

A slot contains a tree of tokens. With a prompt of p tokens and B beams, the tokens of step g are at places p + g * B to
p + g * B + B - 1. The mask ``visible`` marks the places that each beam sees: the prompt, and the beam's own earlier
tokens, one of each step. When beam search replaces a beam with a copy of another beam, only a row of the mask is
copied. Keys and values never move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from capsfusion_tasks.fusion.native.attention import Beams, Tokens, over_beams, over_prompts, pack_prompts
from capsfusion_tasks.fusion.native.cache import KVCache, Pages
from capsfusion_tasks.fusion.native.decoding import BeamSearch, Decoded
from capsfusion_tasks.fusion.native.graphs import DecodeGraphs
from capsfusion_tasks.fusion.native.model import Llama


@dataclass(frozen=True)
class Prefix:
    """The P tokens that all prompts begin with, and their keys and values, [layers, kv_heads, P, D] each."""

    ids: list[int]
    keys: Tensor
    values: Tensor

    @classmethod
    def compute(cls, model: Llama, ids: Sequence[int]) -> Prefix:
        p = len(ids)
        page_tokens = model.ops.PAGE_TOKENS or max(1, p)
        needed = -(-p // page_tokens)
        pages = Pages(pages=needed, page_tokens=page_tokens, slots=1, capacity=p)
        pages.grow(0, p)
        cache = KVCache.empty(model, None, pages)
        if p:
            prompt = pack_prompts([ids], [0], prefix=0, cache=cache)
            model.forward(prompt.tokens.ids, over_prompts(model, cache, prompt))
        keys, values = (x[:, :needed].transpose(1, 2).flatten(2, 3)[:, :, :p] for x in (cache.keys, cache.values))
        return cls(list(ids), keys.contiguous(), values.contiguous())


class SlotSizes(TypedDict):
    """The arguments of ``Slots`` that do not depend on the device's memory."""

    beams: int
    prompt_tokens: int
    max_new_tokens: int
    eos_ids: Sequence[int]
    keep_beams: bool


class Slots:
    """N slots. Each slot holds one row of the batch, with B beams.

    A row stays in the same slot until its caption is complete. ``_order`` lists all slots, busy slots first, so a step
    over n rows handles the first n slots of this list.

    ``prompt_tokens`` is the length of the longest prompt without the prefix. ``max_new_tokens`` is the length of the
    longest caption. ``pages`` is the number of pages of keys and values for all slots together; None: enough for the
    longest rows in all slots. ``shared_pages`` is the argument ``shared`` of ``Pages``.
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
        eos_ids: Sequence[int],
        keep_beams: bool = False,
        pages: int | None = None,
        shared_pages: bool = False,
    ) -> None:
        self._model, self._prefix, self._beams = model, prefix, beams
        capacity = slot_capacity(prompt_tokens, max_new_tokens, beams)
        page_tokens = model.ops.PAGE_TOKENS or capacity
        self._pages = Pages(
            pages=pages or slots * -(-capacity // page_tokens),
            page_tokens=page_tokens,
            slots=slots,
            capacity=capacity,
            shared=shared_pages,
        )
        self._cache = KVCache.empty(model, (prefix.keys, prefix.values), self._pages)
        self._search = BeamSearch(
            slots=slots,
            beams=beams,
            max_new_tokens=max_new_tokens,
            eos_ids=eos_ids,
            device=model.device,
            keep_beams=keep_beams,
        )
        self._last_step = max(0, max_new_tokens - 2)
        self._visible = torch.zeros(slots, beams, capacity, device=model.device, dtype=torch.bool)
        # [N] prompt lengths, without the prefix.
        self._prompt_length = torch.zeros(slots, device=model.device, dtype=torch.long)
        self._used = [0] * slots  # number of tokens in each busy slot, kept on the host
        self._busy: list[int] = []  # busy slots, the slot with the oldest row first
        self._free = list(range(slots - 1, -1, -1))
        self._order = torch.arange(slots, device=model.device)  # [N] slots, busy slots first
        self._reordered = False  # whether _order has changed since it was last copied to the device
        self._seen = torch.ones((), device=model.device, dtype=torch.bool)
        self._graphs: DecodeGraphs | None = None

    def capture(self) -> None:
        """Record the decode step as CUDA graphs.

        Call this before the first row is admitted, because recording runs steps, which would change the state of rows.
        """
        self._graphs = DecodeGraphs(self.step, len(self._order))

    @property
    def busy(self) -> int:
        """The number of slots that hold a row."""
        return len(self._busy)

    def clear(self) -> None:
        """Drop all rows."""
        for slot in list(self._busy):
            self._abandon(slot)

    def room_for(self, prompts: Sequence[int]) -> int:
        """How many of the next rows can be admitted now. ``prompts``: these rows' prompt lengths without the prefix.

        Leaves one page free for each row that can still grow, because a row that gets no page must start again.
        """
        free = self._pages.free - sum(map(self._pages.may_grow, self._busy))
        admitted = 0
        for tokens in prompts[: len(self._free)]:
            free -= min(self._pages.needed(tokens) + 1, self._pages.per_slot)
            if free < 0:
                break
            admitted += 1
        return admitted

    def prefill(self, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> list[int]:
        """Put ``prompts`` (without the prefix) into free slots, and generate each caption's first token.

        Returns the slots. ``limits`` are the maximum numbers of new tokens, one per row. Call ``room_for`` first, to
        know how many rows fit.
        """
        device = self._model.device
        taken = [self._free.pop() for _ in prompts]
        self._busy += taken
        self._reordered = True
        for slot, prompt in zip(taken, prompts, strict=True):
            self._used[slot] = len(prompt)
            if not self._pages.grow(slot, len(prompt)):
                raise RuntimeError(f"no page is free for a prompt of {len(prompt)} tokens: call room_for first")
        self._upload()

        batch = pack_prompts(
            prompts,
            taken,
            prefix=len(self._prefix.ids),
            cache=self._cache,
            multiple=self._model.ops.PREFILL_MULTIPLE,
        )
        limit = torch.tensor(limits, device=device)
        hidden = self._model.forward(batch.tokens.ids, over_prompts(self._model, self._cache, batch))  # [T, E]
        logits = self._model.logits(hidden[batch.starts[1:] - 1])[:, None].expand(-1, self._beams, -1)  # [R, B, V]
        slots, lengths = batch.slots, batch.starts.diff()
        self._prompt_length[slots] = lengths
        places = torch.arange(self._visible.shape[-1], device=device)
        self._visible[slots] = (places < lengths[:, None])[:, None]
        self._search.start(slots, limit)
        self._search.step(slots, logits)
        return taken

    def decode(self) -> list[int]:
        """Add a token to each beam of the busy slots.

        Returns the slots whose pages went to older rows. These slots are free now, and their rows must start again.
        """
        evicted = self.grow()
        self._upload()
        if self._graphs is not None:
            self._graphs.replay(len(self._busy))
        else:
            self.step(len(self._busy))
        return evicted

    def finished(self) -> dict[int, Decoded]:
        """The complete captions, by slot. Frees their slots."""
        done = self._search.done.tolist()
        slots = [slot for slot in self._busy if done[slot]]
        captions = dict(zip(slots, self._search.best(slots), strict=True)) if slots else {}
        for slot, caption in captions.items():
            self._release(slot, clean=not math.isfinite(caption.score))
        return captions

    def grow(self) -> list[int]:
        """Give each busy slot the pages for the tokens of the next step.

        If no page is free, the youngest row gives up its pages, so that the oldest row always finishes. Returns the
        slots of rows that gave up their pages.
        """
        evicted: list[int] = []
        for slot in list(self._busy):
            if slot in evicted:
                continue
            self._used[slot] += self._beams
            while slot not in evicted and not self._pages.grow(slot, self._used[slot]):
                evicted.append(self._busy[-1])
                self._abandon(self._busy[-1])
        return evicted

    def _abandon(self, slot: int) -> None:
        """Release a slot whose row is not finished."""
        self._release(slot, clean=not self._search.is_finite(slot))

    def _release(self, slot: int, *, clean: bool) -> None:
        """Free a slot and its pages. With ``clean``, first fill the pages with zeros.

        Zeros are necessary if the row's scores are not finite. Without zeros, the next row that uses the pages would
        get NaN, too: attention gives masked tokens the weight 0, and 0 times NaN is NaN.
        """
        if clean:
            pages = self._pages.held(slot)
            self._cache.keys[:, pages] = self._cache.values[:, pages] = 0
        self._busy.remove(slot)
        self._free.append(slot)
        self._used[slot] = 0
        self._pages.release(slot)
        self._reordered = True

    def _upload(self) -> None:
        """Copy the order of slots and the page table to the device, if they have changed since the last step."""
        if self._reordered:
            self._order.copy_(torch.tensor(self._busy + self._free))
            self._reordered = False
        if self._pages.changed:
            self._cache.table.copy_(self._pages.table)
            self._pages.changed = False

    def step(self, n: int) -> None:
        """Run the decode step over the first ``n`` slots of ``_order``, busy or not. Never waits for the device."""
        slots, b = self._order[:n], self._beams
        # [N] number of generated tokens of each beam that are in the cache. In a CUDA graph, idle slots take part in
        # the step, so this number also grows for idle slots. The clamp keeps the places of idle slots' tokens inside
        # the slot.
        generated = (self._search.length[slots] - 1).clamp(0, self._last_step)
        prompt = self._prompt_length[slots]
        positions = len(self._prefix.ids) + prompt + generated  # [N]
        beam = torch.arange(b, device=slots.device)
        places = (prompt + generated * b)[:, None] + beam  # [N, B]
        self._visible.index_put_((slots[:, None], beam, places), self._seen)  # each beam sees its own new token
        ids = self._search.last_tokens(slots).reshape(-1)  # [N * B]
        # Copy with repeat_interleave, because an expanded view is not dense, and kernels need dense memory.
        tokens = Tokens(ids, positions.repeat_interleave(b), slots.repeat_interleave(b), places.view(-1))
        seen = self._model.ops.pack_seen(self._visible[slots], self._cache)
        # Idle slots count as slots of one token, so that attention reads a single page for each of them.
        idle = self._cache.table[slots, 0] == self._pages.spare
        used = (places[:, -1] + 1).masked_fill(idle, 1)
        beams = Beams(tokens, slots, used, seen)
        hidden = self._model.forward(ids, over_beams(self._model, self._cache, beams))  # [N * B, E]
        parents = self._search.step(slots, self._model.logits(hidden).view(n, b, -1))  # [N, B]
        self._visible[slots] = self._visible[slots[:, None], parents]


def slot_capacity(prompt_tokens: int, max_new_tokens: int, beams: int) -> int:
    """Tokens that a slot must hold: a prompt, and all generated tokens except those of the last step.

    No token attends to the tokens of the last step, so their keys and values are never stored.
    """
    return prompt_tokens + max(1, max_new_tokens - 1) * beams
