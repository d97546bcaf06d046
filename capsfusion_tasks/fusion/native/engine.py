"""The native engine: continuous batching. The common prefix of all prompts is computed only once.

A row is a prompt to complete. It occupies one slot of the batch until its caption is complete. After that, another row
takes the slot. Each decode step adds a token to every beam of every occupied slot.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import torch

from capsfusion_tasks.fusion.engine import NOT_FINITE, Beam, Completion, Occupancy, Request, Requests
from capsfusion_tasks.fusion.native import memory
from capsfusion_tasks.fusion.native.config import check_positions
from capsfusion_tasks.fusion.native.decoding import Decoded
from capsfusion_tasks.fusion.native.memory import Room
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.slots import Prefix, Slots, SlotSizes

log = logging.getLogger(__name__)

CPU_SLOTS = 32
# Maximum number of tokens per decode step, which computes one token per beam. Up to about 480 tokens, the speed of an
# H200 is limited by reading the weights, and with more tokens by arithmetic. In a prototype, a step took 26.3 ms for
# 480 tokens and 50.1 ms for 960, so twice as many tokens fused only 5% more rows per second. The limit of 1,024 still
# gains these 5%, and is a multiple of 256, the largest tile of a matrix product. A higher limit would gain even less,
# and need more memory.
STEP_TOKENS = 1024
MAX_SLOTS = 512
ADMIT_SHARE = 4  # new rows are admitted when a quarter of the slots is free
# Maximum number of prompt tokens that one prefill computes: enough to keep a GPU busy, and few enough that their
# activations fit in memory beside the KV cache.
PREFILL_TOKENS = 8192


class NativeEngine:
    """Beam search over prompts that all begin with the tokens ``prefix``. With one beam, the search is greedy.

    ``batch_size`` is the maximum number of slots; None: the engine chooses this maximum. On a GPU with little memory,
    the engine uses fewer slots. A caption ends at any of ``eos_ids``. With ``keep_beams``, a completion contains all
    finished captions that the search kept for its row, and not only the best one.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Llama,
        *,
        num_beams: int,
        max_new_tokens: int,
        max_prompt_tokens: int,
        eos_ids: Sequence[int],
        prefix: Sequence[int],
        keep_beams: bool = False,
        batch_size: int | None = None,
    ) -> None:
        check_positions(model.sizes, max_prompt_tokens, max_new_tokens)
        self.model, self.num_beams, self.eos_ids = model, num_beams, tuple(eos_ids)
        self.max_new_tokens, self.max_prompt_tokens, self.keep_beams = max_new_tokens, max_prompt_tokens, keep_beams
        self._prefix = Prefix.compute(model, prefix)
        self._room = self._find_room(batch_size or self._default_slots())
        self.occupancy = Occupancy()
        self._slots: Slots | None = None

    @property
    def batch_size(self) -> int:
        """The number of slots."""
        return self._room.slots

    def generate(self, requests: Requests) -> Iterator[Completion]:
        """Yield completions as rows finish.

        Takes requests as slots become free. While rows are active, also takes requests in advance, at most half as
        many as there are slots.
        """
        slots = self._slots = self._slots or self._allocate()
        with torch.inference_mode():
            slots.clear()  # remove rows that a failed earlier call may have left
        waiting: deque[Request] = deque()
        active: dict[int, Request] = {}  # slot → request
        done: list[Completion] = []  # completions of the last step; yielded while the device computes the next step
        while True:
            # Take more rows before the waiting rows run out, because a prefill of only a few rows is inefficient.
            if len(waiting) < self._admit_rows:
                idle = not active and not waiting
                if idle:
                    yield from done
                    done = []
                # Take few rows in advance: all ranks take rows from one source, and each rank should have rows until
                # this source is empty.
                most = max(1, self.batch_size // 2) if active else self.batch_size
                waiting.extend(requests.take(max(1, most - len(waiting)), wait=idle))
            with torch.inference_mode():
                if rows := self._admitted(slots, waiting):
                    limits = [row.limit(self.max_new_tokens) for row in rows]
                    active |= zip(slots.prefill([self._own_part(row) for row in rows], limits), rows, strict=True)
                elif active:
                    waiting.extendleft(active.pop(slot) for slot in slots.decode())
                    self.occupancy.count(len(active), self.batch_size)
                else:
                    return
            yield from done
            with torch.inference_mode():
                finished = slots.finished()  # this call waits for the device
            done = [self._completion(active.pop(slot), decoded) for slot, decoded in finished.items()]

    def shrink(self) -> bool:
        """Halve the number of slots, after the device ran out of memory. Returns False if no smaller number fits."""
        self._slots = None  # free the old slots before measuring new slots
        if self.batch_size == 1:
            return False
        try:
            self._room = self._find_room(self.batch_size // 2)
        except torch.OutOfMemoryError:
            return False
        return True

    @torch.inference_mode()
    def _allocate(self) -> Slots:
        started = time.monotonic()
        slots = Slots(self.model, self._prefix, slots=self.batch_size, pages=self._room.pages, **self._sizes())
        if self.model.device.type == "cuda":
            slots.capture()
        log.info(
            "the engine's %d slots of %d beams are ready after %.1f s",
            *(self.batch_size, self.num_beams, time.monotonic() - started),
        )
        return slots

    def _default_slots(self) -> int:
        if self.model.device.type != "cuda":
            return CPU_SLOTS
        return max(1, min(MAX_SLOTS, STEP_TOKENS // self.num_beams))

    def _find_room(self, slots: int) -> Room:
        """Measure how many slots, at most ``slots``, and how many pages of the KV cache fit in memory.

        If memory runs out during the measurement, repeats the measurement with half the number of slots. Raises
        torch.OutOfMemoryError if not even one row fits.
        """
        while True:
            try:
                return self._measure(slots)
            except torch.OutOfMemoryError:
                if slots == 1:
                    raise
            slots //= 2

    @torch.inference_mode()
    def _measure(self, slots: int) -> Room:
        if self.model.device.type != "cuda":
            return Room(slots, slots)
        return memory.measure(
            self.model, self._prefix, prefill_tokens=PREFILL_TOKENS, most_slots=slots, **self._sizes()
        )

    def _sizes(self) -> SlotSizes:
        return {
            "beams": self.num_beams,
            "prompt_tokens": self.max_prompt_tokens - len(self._prefix.ids),
            "max_new_tokens": self.max_new_tokens,
            "eos_ids": self.eos_ids,
            "keep_beams": self.keep_beams,
        }

    @property
    def _admit_rows(self) -> int:
        return max(1, self.batch_size // ADMIT_SHARE)

    def _should_admit(self, active: int, waiting: int) -> bool:
        """Whether enough slots are free for an efficient prefill."""
        free = self.batch_size - active
        return waiting > 0 and free >= min(waiting, self._admit_rows)

    def _admitted(self, slots: Slots, waiting: deque[Request]) -> list[Request]:
        """Remove and return the rows of ``waiting`` that fit in the next prefill: none if too few slots are free."""
        if not self._should_admit(slots.busy, len(waiting)):
            return []
        tokens = [len(request.prompt) - len(self._prefix.ids) for request in islice(waiting, self.batch_size)]
        ends = list(accumulate(tokens[: slots.room_for(tokens)]))
        # A prefill is padded to a multiple of PREFILL_MULTIPLE tokens, so admit only as many rows as need little
        # padding. For example, if the multiple is 256 and the rows have 600 tokens together, admit rows with up to 512
        # tokens together. The other rows wait, because with them the prefill would be padded to 768 tokens.
        most = min(PREFILL_TOKENS, ends[-1] if ends else 0)
        multiple = self.model.ops.PREFILL_MULTIPLE
        most = most // multiple * multiple or most
        return [waiting.popleft() for _ in range(max(1, bisect_right(ends, most)) if ends else 0)]

    def _own_part(self, request: Request) -> list[int]:
        """The part of the prompt after the prefix. Raises ValueError for a prompt that does not fit this engine."""
        p = len(self._prefix.ids)
        if request.prompt[:p] != self._prefix.ids or not p < len(request.prompt) <= self.max_prompt_tokens:
            raise ValueError(
                f"the row's prompt ({len(request.prompt)} tokens) must begin with the {p} tokens that all prompts"
                f" share, continue after these tokens, and have at most {self.max_prompt_tokens} tokens"
            )
        return request.prompt[p:]

    def _completion(self, request: Request, decoded: Decoded) -> Completion:
        if not math.isfinite(decoded.score):
            return Completion(request.row, [], NOT_FINITE, 0)
        best, *others = (Beam.of(ids, self.eos_ids) for ids in (decoded.token_ids, *decoded.others))
        return Completion(
            request.row, best.token_ids, best.finish_reason, best.caption_tokens, decoded.score, (*others,)
        )
