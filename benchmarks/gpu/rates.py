"""Measures the engine with a random model: rows/s, the share of busy slots, and the time of each kernel."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig

from benchmarks.arithmetic import Cost
from benchmarks.device_rates import measure_rates
from benchmarks.gpu.cases import Case, Figures, Line, Options, console, name_of, name_of_beams
from benchmarks.random_llama import SIZES, random_llama
from benchmarks.workload import read_workload
from capsfusion_tasks.fusion.engine import Request, StaticRequests
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

MAX_NEW_TOKENS = 80
_STEPS = 36  # mean number of decode steps of a caption that CapsFusion published
_KERNELS = 24  # number of kernels that a profile prints


def cases(options: Options) -> list[Case]:
    return [
        Case(_name(dtype, beams, slots), partial(measure, options, dtype, beams, slots))
        for dtype in options.dtypes()
        for beams in options.beams
        for slots in options.slots
    ]


def profiles(options: Options) -> list[Case]:
    return [Case(f"profile, {name_of(dtype)}, 3 beams", partial(show, options, dtype)) for dtype in options.dtypes()]


def _name(dtype: torch.dtype, beams: int, slots: int | None) -> str:
    return f"rate, {name_of(dtype)}, {name_of_beams(beams)}" + (f", at most {slots} slots" if slots else "")


def measure(
    options: Options, dtype: torch.dtype, beams: int, slots: int | None, _: Mapping[str, Figures]
) -> Sequence[Line]:
    device = options.device
    tokenizer = LlamaTokenizer(options.tokenizer)
    requests = read_workload(options.pairs, options.rows, tokenizer, MAX_NEW_TOKENS)
    cost = Cost(LlamaConfig(**SIZES[options.size]), prefix=len(shared_prefix(tokenizer)), beams=beams)
    device_rates = measure_rates(device, dtype)
    _empty_cache(device)

    engine, start_seconds = start_engine(options, tokenizer, dtype, beams, requests, slots)
    before = replace(engine.occupancy)
    times = []
    started = time.perf_counter()
    for _completion in engine.generate(StaticRequests(requests)):
        times.append(time.perf_counter() - started)
    if len(times) != len(requests):
        raise RuntimeError(
            f"the engine returned {len(times)} captions for {len(requests)} rows; expected one for each row"
        )

    busy = (engine.occupancy.busy - before.busy) / (engine.occupancy.slots - before.slots)
    limit = cost.limit(requests, device_rates, slots=engine.batch_size).rows_per_second
    figures: Figures = {
        "rows": len(requests),
        "seconds": times[-1],
        "rows_per_second": len(requests) / times[-1],
        "rows_per_second_while_all_slots_are_busy": rate_while_full(times, engine.batch_size),
        "busy": busy,
        "slots": engine.batch_size,
        "start_seconds": start_seconds,
        "peak_bytes": torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None,
        "limit_rows_per_second": limit,
        "device": device_rates.text(),
    }
    full, peak = figures["rows_per_second_while_all_slots_are_busy"], figures["peak_bytes"]
    more = [
        f"{full:.1f} with all slots busy" if full else "",
        f"{engine.batch_size} slots, {busy:.0%} busy",
        f"{figures['rows_per_second'] / limit:.0%} of the limit of {limit:.0f}",
        f"start {start_seconds:.1f} s",
        f"peak {peak / 1e9:.1f} GB" if peak else "",
    ]
    result = f"{figures['rows_per_second']:.1f} rows/s"
    return [Line(_name(dtype, beams, slots), result, ", ".join(filter(None, more)), figures)]


def rate_while_full(times: Sequence[float], slots: int) -> float | None:
    """Rows/s while all slots are busy. Leaves out the first and the last ``slots`` rows.

    ``times``: when each row finished, in seconds. Returns None for fewer than 3 * ``slots`` rows.
    """
    first, last = slots, len(times) - slots
    return (last - first) / (times[last - 1] - times[first - 1]) if last >= 2 * first else None


def start_engine(
    options: Options,
    tokenizer: LlamaTokenizer,
    dtype: torch.dtype,
    beams: int,
    requests: Sequence[Request],
    slots: int | None = None,
) -> tuple[NativeEngine, float]:
    """Start an engine with a random model. Returns the engine, and the seconds that its start and first row took."""
    config = LlamaConfig(**SIZES[options.size])
    model = random_llama(config, options.device, dtype)
    started = time.perf_counter()
    engine = NativeEngine(
        model,
        num_beams=beams,
        max_new_tokens=MAX_NEW_TOKENS,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        eos_ids=[config.vocab_size],  # an id that the model never produces, so that each row ends at its token limit
        prefix=shared_prefix(tokenizer),
        batch_size=slots,
    )
    list(engine.generate(StaticRequests([replace(requests[0], max_new_tokens=2)])))
    return engine, time.perf_counter() - started


def show(options: Options, dtype: torch.dtype, _: Mapping[str, Figures]) -> Sequence[Line]:
    """Print the time of each kernel in a decode step with all slots busy, and in the prefill.

    Fuses rows twice: with captions of one token, which need only the prefill, and with longer captions. The difference
    is the time of the decode steps.
    """
    tokenizer = LlamaTokenizer(options.tokenizer)
    requests = read_workload(options.pairs, MAX_NEW_TOKENS * 8, tokenizer, MAX_NEW_TOKENS)
    engine, _seconds = start_engine(options, tokenizer, dtype, 3, requests)
    rows = [requests[row % len(requests)] for row in range(engine.batch_size)]
    prefill, both = (_times_by_kernel(engine, rows, tokens) for tokens in (1, 1 + _STEPS))
    decode = {name: (ms - prefill.get(name, 0.0)) / _STEPS for name, ms in both.items()}
    for title, times, total in (
        (f"a decode step of {len(rows)} slots", decode, sum(decode.values())),
        (f"prefill of {len(rows)} rows", prefill, sum(prefill.values())),
    ):
        console.print(f"{title}: {total:.2f} ms")
        for name, ms in sorted(times.items(), key=lambda item: -item[1])[:_KERNELS]:
            console.print(f"  {ms:8.3f} ms  {ms / total:4.0%}  {name[:100]}", markup=False)
    step, each = sum(decode.values()), sum(prefill.values()) / len(rows)
    figures: Figures = {"slots": len(rows), "decode_step_ms": decode, "prefill_ms": prefill}
    case = f"profile, {name_of(dtype)}, 3 beams"
    return [Line(case, f"{step:.1f} ms a step", f"{len(rows)} slots, prefill {each:.2f} ms a row", figures)]


def _times_by_kernel(engine: NativeEngine, rows: Sequence[Request], tokens: int) -> dict[str, float]:
    """Fuse ``rows`` up to ``tokens`` tokens each. Returns milliseconds of each kernel (on a CPU: of each operator)."""
    on_gpu = engine.model.device.type == "cuda"
    requests = [replace(request, row=row, max_new_tokens=tokens) for row, request in enumerate(rows)]
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        list(engine.generate(StaticRequests(requests)))
        if on_gpu:
            torch.cuda.synchronize()
    averages = profiler.key_averages()
    return {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e3 for e in averages}


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
