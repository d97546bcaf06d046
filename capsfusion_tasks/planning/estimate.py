"""Estimates the GPU hours, the cost and the duration of fusing pairs. Checks GPU hours and cost against a budget.

The estimate uses measured rates. A GPU hour is one hour of one GPU: four GPUs use four GPU hours in an hour. On a CPU,
each rank (process of torchrun) counts as a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.warehouse.fusions import EarlierFusion
from capsfusion_tasks.warehouse.rates import Measured, Spread


@dataclass(frozen=True)
class Benchmark:
    """The rate at which one device fuses rows, measured in a benchmark.

    ``tokens_per_row``: mean number of tokens of a row, measured with the model's tokenizer on the pairs that the
    paper's authors published. ``source``: text that says where the rate is from.
    """

    rows_per_second: float
    tokens_per_row: float
    source: str

    @property
    def rate(self) -> Rate:
        return given_rate(
            self.rows_per_second, self.tokens_per_row, f"{self.source} (no unit with these settings is measured yet)"
        )


_H200 = "an H200's rate with these settings, docs/benchmarks.md; other GPUs are slower"
# Benchmarks by model, engine, dtype and number of beams, because the rate depends strongly on each of them. An estimate
# uses a benchmark until a unit is fused with the same settings (the same "fusion"). Fusing the unit measures the rate.
BENCHMARKS = {
    ("BAAI/CapsFus-LLaMA", "native", "bfloat16", 3): Benchmark(126.4, 196, _H200),
    ("BAAI/CapsFus-LLaMA", "native", "bfloat16", 1): Benchmark(221.5, 196, _H200),
    ("BAAI/CapsFus-LLaMA", "native", "float8", 3): Benchmark(191.9, 196, _H200),
    ("BAAI/CapsFus-LLaMA", "native", "float8", 1): Benchmark(323.8, 196, _H200),
    ("BAAI/CapsFus-LLaMA", "transformers", "bfloat16", 3): Benchmark(
        1.04, 196, "the paper's figure for its script on an A100-40G"
    ),
    ("demo/model", "native", "float32", 3): Benchmark(
        15.1, 86, "the demo model's rate on one CPU core, docs/benchmarks.md"
    ),
}
LONGEST_CAPTION = 80  # max_new_tokens of all benchmarks


@dataclass(frozen=True)
class Work:
    """Pairs to fuse, and the estimated tokens of their prompts and captions."""

    rows: int = 0
    tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.rows + other.rows, self.tokens + other.tokens)

    @classmethod
    def of(cls, units: Iterable[Unit], longest_row: int) -> Work:
        """The work of ``units``.

        Counts at most ``longest_row`` tokens per row, because earlier versions of this project may have recorded higher
        estimates.
        """
        return sum((cls(unit.rows, min(unit.tokens, unit.rows * longest_row)) for unit in units), start=cls())


NOTHING = Work()


@dataclass(frozen=True)
class Rate:
    """Tokens (prompt and caption) that one device processes per second. ``source`` says where the rate is from."""

    tokens_per_second: Spread
    source: str
    tokens_real: Spread | None = None  # counted tokens divided by estimated tokens, for the measured units


def measured_rate(found: Measured) -> Rate:
    units = f"the median of the last {found.units} units" if found.units > 1 else "the only measured unit"
    return Rate(found.tokens_per_second, f"{units} with these settings", found.tokens_real)


def benchmark_rate(decoding: Decoding) -> Rate | None:
    """The rate to use before a unit is measured. None if there is no benchmark of these settings."""
    # Longer captions are slower, and leave memory for fewer rows. So no benchmark applies to them.
    if decoding.max_new_tokens > LONGEST_CAPTION:
        return None
    found = BENCHMARKS.get((decoding.model, decoding.engine, decoding.dtype, decoding.num_beams))
    return None if found is None else found.rate


def given_rate(rows_per_second: float, tokens_per_row: float, source: str) -> Rate:
    return Rate(Spread(*[rows_per_second * tokens_per_row] * 3), source)


@dataclass(frozen=True)
class Estimate:
    """Work to fuse, with its estimated hours and cost. Hours and cost are None if no rate is known."""

    work: Mapping[str, Work]  # stage of the pairs (such as "paired, not planned") → work
    rate: Rate | None
    now: datetime
    gpus: int | None = None  # devices that work in parallel; None: no finish time is estimated
    price: float | None = None  # price of a GPU hour
    unpaired_shards: int = 0  # discovered shards whose pairs are not in ``work`` yet
    unpaired_bytes: int = 0
    # Pairs that are not in ``work``, because img2dataset could not download their images.
    gone: Work = NOTHING
    # Fusions that earlier versions of this project recorded incompletely. The pipeline fuses their pairs again, even
    # if one of these fusions used the current settings. So ``text`` tells the user how to avoid this.
    earlier: Sequence[EarlierFusion] = ()

    @property
    def total(self) -> Work:
        return sum(self.work.values(), start=Work())

    @property
    def gpu_hours(self) -> Spread | None:
        return self._hours_for(self.total)

    @property
    def gpu_hours_saved(self) -> Spread | None:
        """GPU hours that are saved by leaving out the pairs in ``gone``."""
        return self._hours_for(self.gone)

    def _hours_for(self, work: Work) -> Spread | None:
        if self.rate is None:
            return None
        fast = self.rate.tokens_per_second
        return Spread(*(work.tokens / rate / 3600 for rate in (fast.high, fast.median, fast.low)))

    @property
    def cost(self) -> float | None:
        hours = self.gpu_hours
        return None if hours is None or self.price is None else hours.median * self.price

    @property
    def hours(self) -> float | None:
        """Hours until all work is done, if every device is always busy."""
        hours = self.gpu_hours
        return None if hours is None or self.gpus is None else hours.median / self.gpus

    @property
    def finish(self) -> datetime | None:
        return None if self.hours is None else self.now + timedelta(hours=self.hours)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as values for JSON."""
        rate, hours, saved = self.rate, self.gpu_hours, self.gpu_hours_saved
        return {
            "work": {name: {"rows": work.rows, "tokens": work.tokens} for name, work in self.work.items()},
            "rows": self.total.rows,
            "tokens": self.total.tokens,
            "tokens_per_second": rate and rate.tokens_per_second._asdict(),
            "rate_source": rate and rate.source,
            "tokens_real": rate.tokens_real._asdict() if rate and rate.tokens_real else None,
            "gpu_hours": hours and hours._asdict(),
            "cost": self.cost,
            "gpus": self.gpus,
            "finish": self.finish and self.finish.isoformat(timespec="seconds"),
            "gone": {"rows": self.gone.rows, "tokens": self.gone.tokens, "gpu_hours": saved and saved._asdict()},
            "unpaired_shards": self.unpaired_shards,
            "unpaired_bytes": self.unpaired_bytes,
            "perhaps_fused_before": {fusion.fusion_id: fusion.rows for fusion in self.earlier},
        }

    @property
    def text(self) -> str:
        lines = [f"{name}: {_of(work)}" for name, work in self.work.items()]
        if self.gone.rows:
            saved = self.gpu_hours_saved
            hours = f", {_number(saved.median)} GPU hours saved" if saved else ""
            lines.append(f"left out, because their images are gone: {_of(self.gone)}{hours}")
        if self.unpaired_shards:
            lines.append(
                f"not counted: {self.unpaired_shards} shards ({self.unpaired_bytes / 1e6:.0f} MB) that are discovered"
                " but not paired yet"
            )
        for fusion in self.earlier:
            lines.append(
                f"perhaps fused before: {fusion.rows:,} rows are loaded under fusion {fusion.fusion_id}. An earlier"
                " version recorded this fusion without its dtype or without a digest of all weights, so its settings"
                f" may be the current ones. If they are, run `capsfusion adopt {fusion.fusion_id}` first: without this"
                " command, these rows are fused again"
            )
        return "\n".join([*lines, *self._what_it_takes()])

    def _what_it_takes(self) -> list[str]:
        rate, hours = self.rate, self.gpu_hours
        if not self.total.rows:
            return []
        if rate is None or hours is None:
            return [
                "GPU hours: unknown, no unit with these settings is measured yet. To measure a unit, run once with a"
                " limit on the number of pairs"
            ]
        speed = rate.tokens_per_second
        wide = f" ({_number(hours.low)} to {_number(hours.high)})" if hours.low < hours.high else ""
        lines = [
            f"GPU hours: {_number(hours.median)}{wide}, at {_number(speed.median)} tokens/s per device",
            f"rate: {rate.source}",
        ]
        if rate.tokens_real:
            real = rate.tokens_real
            lines.append(
                f"the measured units had {real.median:.2f} times the estimated tokens"
                f" ({real.low:.2f} to {real.high:.2f})"
            )
        if self.cost is not None:
            lines.append(f"cost: {self.cost:,.2f} at {self.price:,.2f} a GPU hour")
        if self.hours is not None and self.finish is not None:
            lines.append(
                f"time: {_duration(self.hours)} with {self.gpus} {'device' if self.gpus == 1 else 'devices'} busy (done"
                f" {self.finish:%Y-%m-%d %H:%M} UTC if started now), plus the time to start each unit"
            )
        return lines


@dataclass(frozen=True)
class Budget:
    """Limits on the estimated GPU hours and cost of a run. None: no limit."""

    max_gpu_hours: float | None = None
    max_cost: float | None = None

    def refuse_without(self, price: float | None) -> None:
        """Raise InputError if the budget limits the cost, but the ``price`` of a GPU hour is unknown (None)."""
        if self.max_cost is not None and price is None:
            raise InputError("max_cost needs a price: set CAPSFUSION_GPU_HOUR_PRICE, or use max_gpu_hours instead")

    def check(self, estimate: Estimate) -> None:
        """Raise InputError if ``estimate`` exceeds the budget."""
        self.refuse_without(estimate.price)
        total = estimate.total
        if not total.rows:
            return
        hours = None if estimate.gpu_hours is None else estimate.gpu_hours.median
        for name, found, most in (("GPU hours", hours, self.max_gpu_hours), ("cost", estimate.cost, self.max_cost)):
            if most is None:
                continue
            if found is None:
                raise InputError(
                    f"the budget ({name}: at most {most:g}) cannot be checked, because no unit with these"
                    " settings is measured yet: to measure a unit, run once with a limit on the number of pairs and"
                    " without a budget. No GPU was used"
                )
            if found > most:
                fitting = int(total.rows * most / found)
                within = (
                    f"Raise the budget, or set a limit of about {fitting:,} pairs. A limit does not apply to units that"
                    " are already planned"
                    if fitting
                    else "Raise the budget: it is not enough for one pair"
                )
                raise InputError(
                    f"over budget: estimated {name} {_number(found)}, allowed {_number(most)}, for {_of(total)}. No GPU"
                    f" was used. {within}"
                )


UNLIMITED = Budget()


def _of(work: Work) -> str:
    return f"{work.rows:,} pairs, about {work.tokens:,} tokens"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{max(1, round(hours * 60))} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
