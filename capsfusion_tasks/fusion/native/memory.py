"""How many rows fit on a GPU: measured with the largest prefill and one decode step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch

from capsfusion_tasks.fusion.native.cache import bytes_per_page
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.slots import Prefix, Slots, SlotSizes, slot_capacity

log = logging.getLogger(__name__)

# What a row of published captions uses of a slot's capacity at its end: 46 tokens of prompt behind the prefix and
# 3 x 36 generated ones, of 144 and 3 x 79. On the mean of its life it uses 0.27, so pages hardly ever run out.
USED_SHARE = 0.4
MARGIN_SHARE = 0.02  # of the card's memory, for what the allocator cannot join and cuBLAS takes later
MARGIN_BYTES = 512 << 20


@dataclass(frozen=True)
class Room:
    """What a batch gets: so many slots, and pages of keys and values for all of them."""

    slots: int
    pages: int


def room(*, free: int, total: int, needed: int, page: int, per_slot: int, most_slots: int) -> Room:
    """Slots and pages in ``free`` bytes of a card of ``total``, besides the ``needed`` ones of the largest batch.

    ``page`` is a page's bytes, ``per_slot`` the pages of the longest row. There are never fewer pages than one such row
    takes: where these do not fit, allocating them is out of memory, and says so.
    """
    pages = int((free - needed - MARGIN_BYTES - MARGIN_SHARE * total) // page) - 1  # one is the spare one
    pages = max(per_slot, min(pages, most_slots * per_slot))
    slots = max(1, min(most_slots, int(pages / (USED_SHARE * per_slot))))
    return Room(slots, min(pages, slots * per_slot))


def measure(model: Llama, prefix: Prefix, *, prefill_tokens: int, most_slots: int, **sizes: Unpack[SlotSizes]) -> Room:
    """The room for at most ``most_slots`` rows on the model's GPU, beside what it holds already.

    Computes the largest prefill, of ``prefill_tokens`` in the longest prompts, and one step of all slots, and looks at
    what these took. ``sizes`` are those of ``Slots``.
    """
    device, prompt = model.device, sizes["prompt_tokens"]
    capacity = slot_capacity(prompt, sizes["max_new_tokens"], sizes["beams"])
    page_tokens = model.ops.PAGE_TOKENS or capacity
    per_slot = -(-capacity // page_tokens)
    page = bytes_per_page(model, page_tokens)
    rows = max(1, min(most_slots, prefill_tokens // prompt))
    torch.cuda.empty_cache()  # the memory of an earlier, larger batch may lie in pieces that are too small for this one
    pages = max(per_slot, rows * -(-prompt // page_tokens))

    before = torch.cuda.memory_allocated(device)
    slots = Slots(model, prefix, slots=most_slots, pages=pages, **sizes)
    state = torch.cuda.memory_allocated(device) - before - (pages + 1) * page
    prefill = _peak(device, partial(slots.prefill, [[0] * prompt] * rows, [sizes["max_new_tokens"]] * rows))
    step = _peak(device, partial(slots.step, most_slots))
    del slots
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    # The graphs keep one step's memory for good. The step that runs before they are recorded needs as much again, which
    # prefills use afterwards.
    needed = state + step + max(step, prefill)
    found = room(free=free, total=total, needed=needed, page=page, per_slot=per_slot, most_slots=most_slots)
    log.info(
        "%.1f of %.1f GB of GPU memory are free; a batch takes %.1f besides keys and values: %d slots, %d pages of %d",
        *(free / 1e9, total / 1e9, needed / 1e9, found.slots, found.pages, page_tokens),
    )
    return found


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that ``work`` took at its peak, above what was there before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
