"""Measures how many rows fit in a GPU's memory. Runs the largest prefill and one decode step to find out."""

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

# Share of a slot's capacity that a row uses when it ends, measured with CapsFusion's published pairs and 3 beams: 46 of
# at most 144 prompt tokens after the prefix, and 3 x 36 of at most 3 x 79 generated tokens. Averaged over the steps of
# a row, the share is only 0.27, so pages hardly ever run out.
USED_SHARE = 0.4
MARGIN_SHARE = 0.02  # share of the GPU's memory that is kept free for fragmentation and for cuBLAS
MARGIN_BYTES = 512 << 20


@dataclass(frozen=True)
class Room:
    """The size of a batch: the number of slots, and the number of pages (of keys and values) for all slots together."""

    slots: int
    pages: int


def room(*, free: int, total: int, needed: int, page: int, per_slot: int, most_slots: int) -> Room:
    """How many slots and pages fit on a GPU with ``total`` bytes of memory, of which ``free`` bytes are free.

    ``needed``: bytes that the largest batch needs besides pages. ``page``: bytes of a page. ``per_slot``: number of
    pages of a row of the maximum length. ``most_slots``: maximum number of slots. The result always has enough pages
    for a row of the maximum length. If even these pages do not fit, allocating them fails later with an out-of-memory
    error.
    """
    pages = int((free - needed - MARGIN_BYTES - MARGIN_SHARE * total) // page) - 1  # minus 1 for the spare page
    pages = max(per_slot, min(pages, most_slots * per_slot))
    slots = max(1, min(most_slots, int(pages / (USED_SHARE * per_slot))))
    return Room(slots, min(pages, slots * per_slot))


def measure(model: Llama, prefix: Prefix, *, prefill_tokens: int, most_slots: int, **sizes: Unpack[SlotSizes]) -> Room:
    """How many slots, at most ``most_slots``, and how many pages fit in the free memory of the model's GPU.

    Runs the largest prefill (``prefill_tokens`` tokens in prompts of the maximum length) and one decode step of all
    slots, and measures the memory of both. For these two runs, all slots share the pages of one row, because a small
    card may have no room for the pages of ``most_slots`` rows. ``sizes`` are arguments of ``Slots``. Raises
    torch.OutOfMemoryError if ``most_slots`` slots do not fit.
    """
    device, prompt = model.device, sizes["prompt_tokens"]
    capacity = slot_capacity(prompt, sizes["max_new_tokens"], sizes["beams"])
    page_tokens = model.ops.PAGE_TOKENS or capacity
    per_slot = -(-capacity // page_tokens)
    page = bytes_per_page(model, page_tokens)
    rows = max(1, min(most_slots, prefill_tokens // prompt))
    torch.cuda.empty_cache()  # torch caches an earlier batch's memory in blocks that may be too small here

    before = torch.cuda.memory_allocated(device)
    slots = Slots(model, prefix, slots=most_slots, pages=per_slot, shared_pages=True, **sizes)
    state = torch.cuda.memory_allocated(device) - before - (per_slot + 1) * page
    prefill = _peak(device, partial(slots.prefill, [[0] * prompt] * rows, [sizes["max_new_tokens"]] * rows))
    step = _peak(device, partial(slots.step, most_slots))
    del slots
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    # A captured graph of a step keeps the step's memory. Before the capture, a step runs without a graph and needs the
    # same memory once more. Prefills run after the capture, and can use this second amount.
    needed = state + step + max(step, prefill)
    found = room(free=free, total=total, needed=needed, page=page, per_slot=per_slot, most_slots=most_slots)
    log.info(
        "%.1f of %.1f GB of GPU memory are free; a batch takes %.1f GB besides keys and values. This leaves room for %d"
        " slots, and for %d pages of %d tokens",
        *(free / 1e9, total / 1e9, needed / 1e9, found.slots, found.pages, page_tokens),
    )
    return found


def _peak(device: torch.device, work: Callable[[], object]) -> int:
    """The peak of allocated bytes while ``work`` runs, minus the bytes that were allocated before."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
