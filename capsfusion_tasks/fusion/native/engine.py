"""The native engine: admits rows into slots as they become free, and decodes all slots together, a token at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Completion, Occupancy, Request, Requests
from capsfusion_tasks.fusion.native.cache import bytes_per_slot
from capsfusion_tasks.fusion.native.decoding import Decoded
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.native.slots import Prefix, Slots, slot_capacity

CPU_SLOTS = 32
MAX_SLOTS = 512  # beyond it a GPU is bound by arithmetic: more rows at once take as much longer
ADMIT_SHARE = 8  # rows are admitted when one slot in so many is free
PREFILL_TOKENS = 8192  # of one prefill, padding counted: it keeps a GPU busy, and fits beside the cache


class NativeEngine:
    """Beam search (greedy, with one beam) for LLaMA models over prompts that all begin with the tokens ``prefix``.

    ``batch_size`` is the number of slots; None: what fits in the GPU's free memory, or CPU_SLOTS.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Llama,
        *,
        num_beams: int,
        max_new_tokens: int,
        max_prompt_tokens: int,
        eos_id: int,
        prefix: Sequence[int],
        batch_size: int | None = None,
    ) -> None:
        if max_prompt_tokens + max_new_tokens > model.max_positions:
            raise InputError(
                f"prompts of {max_prompt_tokens} and captions of {max_new_tokens} tokens do not fit the model's"
                f" {model.max_positions} positions: choose shorter captions with --max-new-tokens"
            )
        self.model, self.num_beams, self.eos_id = model, num_beams, eos_id
        self.max_new_tokens, self.max_prompt_tokens = max_new_tokens, max_prompt_tokens
        self._prefix = Prefix.compute(model, prefix)
        self.batch_size = batch_size or self._slots_that_fit()
        self.occupancy = Occupancy()
        self._slots: Slots | None = None

    def generate(self, requests: Requests) -> Iterator[Completion]:
        """Completions as rows finish. Requests are taken as slots become free, half as many ahead."""
        slots = self._slots = self._slots or self._allocate()
        waiting: deque[Request] = deque()
        active: list[Request] = []  # the row in slot 0, in slot 1, …
        while True:
            if not waiting:
                # Sorted, so that rows which are admitted together need little padding. A window is used up before the
                # next one is read, so no row waits for ever; it is small, so that other ranks find work to the end.
                most = max(1, self.batch_size // 2) if active else self.batch_size
                window = requests.take(most, wait=not active)
                waiting = deque(sorted(window, key=lambda request: -len(request.prompt)))
            with torch.inference_mode():
                if waiting and self._should_admit(len(active), len(waiting)):
                    self._admit(slots, active, waiting)
                elif active:
                    slots.decode(len(active))
                    self.occupancy.count(len(active), self.batch_size)
                else:
                    return
                completions = self._harvest(slots, active)
            yield from completions

    def shrink(self) -> bool:
        """Halve the number of slots, after the device ran out of memory. False where it cannot be halved."""
        if self.batch_size == 1:
            return False
        self.batch_size //= 2
        self._slots = None  # their memory first, before fewer are allocated
        return True

    @torch.inference_mode()
    def _allocate(self) -> Slots:
        return Slots(
            self.model,
            self._prefix,
            slots=self.batch_size,
            beams=self.num_beams,
            prompt_tokens=self.max_prompt_tokens - len(self._prefix.ids),
            max_new_tokens=self.max_new_tokens,
            eos_id=self.eos_id,
        )

    def _slots_that_fit(self) -> int:
        if self.model.device.type != "cuda":
            return CPU_SLOTS
        free, _ = torch.cuda.mem_get_info(self.model.device)
        prompt_tokens = self.max_prompt_tokens - len(self._prefix.ids)
        cache = bytes_per_slot(self.model, slot_capacity(prompt_tokens, self.max_new_tokens, self.num_beams))
        logits = 4 * self.num_beams * self.model.head.shape[0] * torch.float32.itemsize  # four of them at a time
        prefill = 4 * PREFILL_TOKENS * self.model.gate_up[0].shape[0] * self.model.dtype.itemsize
        return max(1, min(MAX_SLOTS, int((0.9 * free - prefill) // (cache + logits))))

    def _should_admit(self, active: int, waiting: int) -> bool:
        """Whether so many slots are free that computing prompts for them is an efficient product of matrices."""
        free = self.batch_size - active
        return free >= min(waiting, max(1, self.batch_size // ADMIT_SHARE)) or not active

    def _admit(self, slots: Slots, active: list[Request], waiting: deque[Request]) -> None:
        most = max(1, PREFILL_TOKENS // len(self._own(waiting[0])))  # the first is the longest
        rows = [waiting.popleft() for _ in range(min(most, self.batch_size - len(active), len(waiting)))]
        limits = [row.limit(self.max_new_tokens) for row in rows]
        slots.prefill(len(active), [self._own(row) for row in rows], limits)
        active += rows

    def _own(self, request: Request) -> list[int]:
        """The row's prompt behind the prefix. Raises ValueError for a prompt that this engine cannot take."""
        p = len(self._prefix.ids)
        if request.prompt[:p] != self._prefix.ids or not p < len(request.prompt) <= self.max_prompt_tokens:
            raise ValueError(
                f"the prompt of row {request.row} ({len(request.prompt)} tokens) must begin with the {p} tokens that"
                f" all prompts share, go on, and end within {self.max_prompt_tokens}"
            )
        return request.prompt[p:]

    def _harvest(self, slots: Slots, active: list[Request]) -> list[Completion]:
        """Take the finished rows out, and move the last busy slots into the holes that they leave."""
        finished = slots.finished(len(active))
        if not finished:
            return []
        completions = [self._completion(active[slot], decoded) for slot, decoded in finished.items()]
        left = len(active) - len(finished)
        holes = [slot for slot in finished if slot < left]
        movers = [slot for slot in range(left, len(active)) if slot not in finished]
        if holes:
            slots.move(movers, holes)
            for mover, hole in zip(movers, holes, strict=True):
                active[hole] = active[mover]
        del active[left:]
        return completions

    def _completion(self, request: Request, decoded: Decoded) -> Completion:
        ids, count = decoded.token_ids, len(decoded.token_ids)
        if ids[-1] == self.eos_id:
            return Completion(request.row, ids[:-1], "stop", count, decoded.score)
        return Completion(request.row, ids, "length", count, decoded.score)
