"""Computes the FLOPs and memory traffic of fusing rows (caption pairs) with a LLaMA, and a device's highest rows/s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from benchmarks.baselines import PaperLoop
from benchmarks.device_rates import DeviceRates
from capsfusion_tasks.fusion.engine import Request
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS


class Cost:
    """Counts floating-point operations (FLOPs) of a LLaMA that fuses rows. A multiply-add counts as two.

    ``prefix``: number of tokens with which all prompts begin. ``beams``: number of beams of each row.
    """

    def __init__(self, config: LlamaConfig, *, prefix: int, beams: int) -> None:
        hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
        head_dim = hidden // config.num_attention_heads
        kv = config.num_key_value_heads * head_dim
        self._prefix, self._beams = prefix, beams
        self._matrices: int = (
            2 * layers * (2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * config.intermediate_size)
        )
        self._head = 2 * hidden * int(config.vocab_size)
        self._attention = 4 * layers * hidden  # FLOPs for the attention of one token to another token
        self._cached = 2 * layers * kv  # number of values that the KV cache has per token

    def needed(self, requests: Sequence[Request]) -> float:
        """The minimum FLOPs for ``requests``: process each row's prompt after the prefix once, and each beam's tokens.

        The last token of a beam costs nothing, because it ends the caption: the model writes but never reads it.
        """
        return sum(
            self._prefill(1, self._own(r), self._prefix) + self._decode(self._beams, len(r.prompt), _steps([r]))
            for r in requests
        )

    def paper(self, requests: Sequence[Request]) -> float:
        total = 0.0
        for start in range(0, len(requests), PaperLoop.BATCH):
            batch = requests[start : start + PaperLoop.BATCH]
            # transformers copies each row once per beam before the prefill, so it computes each prompt once per beam.
            copies = len(batch) * self._beams
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

    def limit(self, requests: Sequence[Request], rates: DeviceRates, *, slots: int) -> Limit:
        """The shortest possible time per row of ``requests`` when ``slots`` rows are decoded together."""
        rows, b = len(requests), self._beams
        steps = [_steps([request]) for request in requests]
        prefill = sum(
            self._own(r) * self._matrices / rates.layers + self._prefill_rest(self._own(r)) / rates.products
            for r in requests
        )
        products = b * sum(steps) * (self._matrices / rates.layers + self._head / rates.products)
        # Divided by 2, because ``_matrices`` and ``_head`` count two operations per weight: multiply and add.
        weights = sum(steps) / slots * (self._matrices * rates.layer_bytes + self._head * rates.bytes) / 2
        # Step k reads the keys and values of at least k - 1 + b generated tokens (b: number of beams), because beams
        # may share all their tokens except the newest. Example with 3 beams: 3 tokens in step 1, 4 tokens in step 2.
        own = sum(n * self._own(r) + n * (n - 1) / 2 + b * n for n, r in zip(steps, requests, strict=True))
        cached = (own + self._prefix * sum(steps) / slots) * self._cached * rates.bytes
        memory = rates.memory
        return Limit(prefill / rows, products / rows, weights / memory / rows, cached / memory / rows)

    def _own(self, request: Request) -> int:
        return len(request.prompt) - self._prefix

    def _prefill(self, copies: int, tokens: int, before: int) -> float:
        attended = tokens * before + tokens * (tokens + 1) / 2
        return copies * (tokens * self._matrices + attended * self._attention + self._head)

    def _prefill_rest(self, tokens: int) -> float:
        """FLOPs of prefilling ``tokens`` tokens after the prefix, except those of the layers' matrix products."""
        return self._prefill(1, tokens, self._prefix) - tokens * self._matrices

    def _decode(self, copies: int, prompt: int, steps: int) -> float:
        attended = steps * prompt + steps * (steps + 1) / 2
        return copies * (steps * (self._matrices + self._head) + attended * self._attention)


def _steps(batch: Sequence[Request]) -> int:
    """Number of decode steps of a batch: the tokens of its longest caption minus 1 (the prefill gives the first)."""
    return max(request.max_new_tokens or 0 for request in batch) - 1


@dataclass(frozen=True)
class Limit:
    """The shortest possible seconds per row: prefill + max(products, weights) + keys_values.

    - ``prefill``: computing the row's prompt, without the prefix (the tokens with which all prompts begin).
    - ``products``: computing the tokens of the row's beams in the layers and the vocabulary head.
    - ``weights``: the row's share of reading the layers' and the head's matrices once per step for all slots (rows
      that are decoded together). Overlaps with ``products``.
    - ``keys_values``: reading the keys and values of the row's tokens once per step for all beams, plus the row's share
      of reading the prefix's keys and values once per step for all slots. Beams count as if only their newest tokens
      differed. (Beams that differ earlier read more.) The arithmetic of attention takes less time and overlaps with
      this reading.
    """

    prefill: float
    products: float
    weights: float
    keys_values: float

    @property
    def rows_per_second(self) -> float:
        return 1 / (self.prefill + max(self.products, self.weights) + self.keys_values)


def print_limit(
    cost: Cost, requests: Sequence[Request], rates: DeviceRates, methods: Mapping[str, tuple[int, float]]
) -> None:
    """Print the device's limit for ``requests``, and each method's rate as a share of this limit.

    ``methods``: name → (number of rows decoded together, measured rows/s). The limit depends on the number of rows.
    """
    table = Table(title=f"limits by arithmetic; {rates.text()}")
    for heading in ("method", "prefill", "products", "weights", "keys, values", "limit rows/s", "reached", "share"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for name, (slots, reached) in methods.items():
        limit = cost.limit(requests, rates, slots=slots)
        parts = (limit.prefill, limit.products, limit.weights, limit.keys_values)
        milliseconds = (f"{1e3 * seconds:.2f} ms" for seconds in parts)
        most = limit.rows_per_second
        table.add_row(name, *milliseconds, f"{most:.1f}", f"{reached:.2f}", f"{reached / most:.0%}")
    Console(width=120).print(table)
