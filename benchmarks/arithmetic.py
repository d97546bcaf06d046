"""How much arithmetic and memory traffic fusing takes: what each way does, and what a device's limits allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from transformers import LlamaConfig

from benchmarks.ways import PaperLoop
from capsfusion_tasks.fusion.engine import Request
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS


class Cost:
    """Floating-point operations (a multiplication and an addition are two) of a LLaMA with B beams behind a prefix."""

    def __init__(self, config: LlamaConfig, *, prefix: int, beams: int) -> None:
        hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
        head_dim = hidden // config.num_attention_heads
        kv = config.num_key_value_heads * head_dim
        self._prefix, self._beams = prefix, beams
        self._matrices: int = (
            2 * layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * config.intermediate_size)
        )
        self._head = 2 * hidden * int(config.vocab_size)
        self._attention = 4 * layers * hidden  # of one token to one other

    def needed(self, requests: Sequence[Request]) -> float:
        """Each row's own prompt tokens once, and each of its beams' tokens once but the last, which nothing follows."""
        return sum(
            self._prefill(1, self._own(r), self._prefix) + self._decode(self._beams, len(r.prompt), _steps([r]))
            for r in requests
        )

    def paper(self, requests: Sequence[Request]) -> float:
        total = 0.0
        for start in range(0, len(requests), PaperLoop.BATCH):
            batch = requests[start : start + PaperLoop.BATCH]
            copies = len(batch) * self._beams  # transformers multiplies rows by beams before the prompt
            total += self._prefill(copies, MAX_PROMPT_TOKENS, 0) + self._decode(
                copies, MAX_PROMPT_TOKENS, _steps(batch)
            )
        return total

    def transformers(self, requests: Sequence[Request], batch_size: int) -> float:
        total = 0.0
        ordered = sorted(requests, key=lambda request: -len(request.prompt))
        for start in range(0, len(ordered), batch_size):
            batch = ordered[start : start + batch_size]
            copies, width = len(batch) * self._beams, len(batch[0].prompt)
            total += self._prefill(copies, self._own(batch[0]), self._prefix)
            total += self._decode(copies, width, _steps(batch))
        return total

    def prefill_only(self, requests: Sequence[Request]) -> float:
        return sum(self._prefill(1, self._own(r), self._prefix) for r in requests)

    def _own(self, request: Request) -> int:
        return len(request.prompt) - self._prefix

    def _prefill(self, copies: int, tokens: int, before: int) -> float:
        attended = tokens * before + tokens * (tokens + 1) / 2
        return copies * (tokens * self._matrices + attended * self._attention + self._head)

    def _decode(self, copies: int, prompt: int, steps: int) -> float:
        attended = steps * prompt + steps * (steps + 1) / 2
        return copies * (steps * (self._matrices + self._head) + attended * self._attention)


def _steps(batch: Sequence[Request]) -> int:
    """Decode steps: the first token comes from the prompt's own pass."""
    return max(request.max_new_tokens or 0 for request in batch) - 1


def print_limit(cost: Cost, requests: Sequence[Request], model: Llama, rows_per_second: dict[str, float]) -> None:
    """The device's limit for this work, with rates measured here, and each way's share of it."""
    flops, bandwidth = _matrix_rate(), _memory_rate()
    rows = len(requests)
    prefill = cost.prefill_only(requests) / rows / flops
    decode = (cost.needed(requests) - cost.prefill_only(requests)) / rows / flops
    weights = sum(weight.numel() for weight in model.parameters().values()) * model.dtype.itemsize
    console = Console(width=120)
    console.print(f"measured here: {flops / 1e12:.0f} TFLOP/s of products, {bandwidth / 1e12:.2f} TB/s of copies")
    console.print(f"needed per row: {1e3 * prefill:.2f} ms of prefill and {1e3 * decode:.2f} ms of decode arithmetic")
    steps = sum((request.max_new_tokens or 0) - 1 for request in requests) / rows
    for name, rate in rows_per_second.items():
        if name.startswith("native"):
            slots = int(name.split()[1])
            traffic = steps * weights / slots / bandwidth  # a step reads the weights once for all slots
            limit = 1 / (prefill + max(decode, traffic))
            console.print(
                f"{name}: {1e3 * traffic:.2f} ms of reading weights per row; limit {limit:.0f} rows/s,"
                f" reached {rate / limit:.0%}"
            )


def _matrix_rate(n: int = 8192, repeat: int = 20) -> float:
    a = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    return float(2 * n**3) / _seconds(lambda: a @ a, repeat)


def _memory_rate(gib: int = 4, repeat: int = 20) -> float:
    a = torch.empty(gib << 30, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2.0 * a.numel() / _seconds(lambda: b.copy_(a), repeat)


def _seconds(work: Callable[[], object], repeat: int) -> float:
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeat
