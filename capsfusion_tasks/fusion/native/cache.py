"""The KV cache: keys and values of the prefix (the text that all prompts begin with), and pages for all other tokens.

The prefix is read-only, and slots get more pages as their rows grow. A slot holds one row of the batch: the row's
prompt (without the prefix), then every token that any of the row's B beams generated. The tokens of a slot have the
places 0, 1, 2 and so on. They are stored in pages. A page table maps places to pages: the token at place t of slot n is
token t % page_tokens of page ``table[n, t // page_tokens]``. Tokens are never moved. A mask marks the places whose
tokens a beam attends to (``slots.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from capsfusion_tasks.fusion.native.model import Llama


@dataclass(frozen=True)
class KVCache:
    """The tensors of the cache. P: number of tokens in the prefix, which may be 0. D: size of an attention head."""

    prefix_keys: Tensor  # [layers, kv_heads, P, D]
    prefix_values: Tensor
    keys: Tensor  # [layers, pages, kv_heads, page_tokens, D]
    values: Tensor
    table: Tensor  # [slots + 1, pages of a slot] int32

    @classmethod
    def empty(cls, model: Llama, prefix: tuple[Tensor, Tensor] | None, pages: Pages) -> KVCache:
        """Allocate a cache. ``prefix``: the keys and the values of the prefix, [layers, kv_heads, P, D] each."""
        if prefix is None:
            none = torch.empty(model.layers, model.kv_heads, 0, model.head_dim, device=model.device, dtype=model.dtype)
            prefix = (none, none)
        shape = (model.layers, pages.spare + 1, model.kv_heads, pages.page_tokens, model.head_dim)
        # Fill with zeros, because new memory may contain NaN. Attention gives masked tokens the weight 0, and 0 times
        # NaN is NaN.
        keys = torch.zeros(shape, device=model.device, dtype=model.dtype)
        return cls(*prefix, keys, torch.zeros_like(keys), pages.table.to(model.device))


def bytes_per_page(model: Llama, page_tokens: int) -> int:
    """Bytes of a page: the keys and values of ``page_tokens`` tokens in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * page_tokens * model.dtype.itemsize


class Pages:
    """Assigns pages to slots (in vLLM: the block manager). Works on the host, so that it never waits for the device.

    With ``shared``, all slots may get the same pages, so their tokens overwrite each other. This is only for measuring
    the memory of a prefill and of a step, without allocating pages for all slots.
    """

    def __init__(self, *, pages: int, page_tokens: int, slots: int, capacity: int, shared: bool = False) -> None:
        self.page_tokens = page_tokens
        self.per_slot = math.ceil(capacity / page_tokens)  # maximum number of pages of one slot
        if pages < self.per_slot:
            raise ValueError(
                f"the KV cache's {pages} pages of {page_tokens} tokens do not hold one row of {capacity} tokens: at"
                f" least {self.per_slot} pages are needed"
            )
        # The number of the spare page, an additional page after all others. Idle slots may take part in a step: their
        # keys and values go to the spare page, which no row reads.
        self.spare = pages
        # [slots + 1, pages of a slot]: the numbers of each slot's pages. The last entry is for padding tokens, which
        # belong to no slot.
        self.table = torch.full((slots + 1, self.per_slot), self.spare, dtype=torch.int32)
        self.changed = True  # whether the table has changed since it was last copied to the device
        # Free pages; the last page in the list is taken next.
        self._free = list(range(pages - 1, -1, -1)) * (slots if shared else 1)
        self._held: list[list[int]] = [[] for _ in range(slots)]

    @property
    def free(self) -> int:
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """The number of pages for ``tokens`` tokens of one slot."""
        return math.ceil(tokens / self.page_tokens)

    def grow(self, slot: int, tokens: int) -> bool:
        """Give ``slot`` more pages until it has room for ``tokens`` tokens. Returns whether enough pages were free.

        If too few pages are free, the slot gets no new page.
        """
        held = self._held[slot]
        more = self.needed(tokens) - len(held)
        if more > len(self._free):
            return False
        for _ in range(more):
            self.table[slot, len(held)] = self._free[-1]
            held.append(self._free.pop())
            self.changed = True
        return True

    def held(self, slot: int) -> list[int]:
        """The pages of ``slot``."""
        return list(self._held[slot])

    def may_grow(self, slot: int) -> bool:
        """Whether ``slot`` has fewer pages than a row of the maximum length needs."""
        return len(self._held[slot]) < self.per_slot

    def release(self, slot: int) -> None:
        """Free the pages of ``slot``."""
        self._free += reversed(self._held[slot])
        self._held[slot].clear()
        self.table[slot] = self.spare
        self.changed = True
