"""Measures ``capsfusion fuse`` from end to end: kills it after a third of the rows, restarts it, and checks its output.

The command runs with torchrun, as users run it. So this part also needs pydantic-settings, psutil and typer, which the
other parts do not need.

The command's rate after its second start is compared with the rate of the engine alone, with the same checkpoint, rows
and EOS. Both rates are measured over about the same number of rows, from the moment when the weights are loaded to the
last row. So both rates include the start, when CUDA graphs are captured and slots are still empty, and the end, when
slots become empty. These rates differ from those of the part ``rates``: here a row takes more steps than its caption
has tokens, because random weights rarely end a beam with EOS. On a CPU the comparison is meaningless: the command uses
all cores, but the engine alone uses one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

import pyarrow.parquet as pq
import torch

from benchmarks.gpu.cases import Case, Figures, Line, Options
from benchmarks.gpu.rates import MAX_NEW_TOKENS, rate_while_full
from benchmarks.workload import read_pairs
from capsfusion_tasks.fusion.engine import Request, StaticRequests, complete_all
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

ENGINE_ALONE = "fuse, the engine alone"
ENGINE_ROWS = 1500  # about as many rows as are left after the kill if --fuse-rows is 3,000
_POLL_SECONDS = 0.05
_DYING_SECONDS = 2.0  # seconds until the torchrun processes of a killed command have ended
# Pessimistic estimates, for time limits. An H200 is ready after 43 s and fuses 77 rows/s.
_START_SECONDS = 60.0
_ROWS_PER_SECOND = 20.0


def cases(options: Options) -> list[Case]:
    rows, log = options.fuse_rows, _log(options)
    return [
        Case(ENGINE_ALONE, partial(measure_engine, options), _limit(starts=1, rows=min(rows, ENGINE_ROWS))),
        # 1.5 times the rows, because the rows that the command is fusing when it is killed are fused again.
        Case("fuse, killed once", partial(fuse_twice, options), _limit(starts=2, rows=1.5 * rows), log),
    ]


def _limit(*, starts: int, rows: float) -> float:
    return starts * _START_SECONDS + rows / _ROWS_PER_SECOND


def _log(options: Options) -> Path:
    return options.scratch / "fuse.log"


def _pairs(options: Options, rows: int) -> list[tuple[str, ...]]:
    return list(islice(cycle(read_pairs(options.pairs, rows)), rows))


def measure_engine(options: Options, _: Mapping[str, Figures]) -> Sequence[Line]:
    """Measure the engine in this process, with the settings that each torchrun process of ``capsfusion fuse`` uses."""
    device = options.device
    tokenizer = LlamaTokenizer(options.model / "tokenizer.model")
    pairs = _pairs(options, min(options.fuse_rows, ENGINE_ROWS))
    requests = [Request(row, prompt_tokens(tokenizer, raw, synthetic)) for row, (raw, synthetic) in enumerate(pairs)]
    started = time.perf_counter()
    model = load_llama(options.model, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    weights = time.perf_counter() - started
    engine = NativeEngine(
        model,
        num_beams=3,
        max_new_tokens=MAX_NEW_TOKENS,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        eos_ids=[tokenizer.eos_id],
        prefix=shared_prefix(tokenizer),
    )
    completions, times = [], []
    started = time.perf_counter()
    for completion in complete_all(engine, StaticRequests(requests)):
        completions.append(completion)
        times.append(time.perf_counter() - started)
    if failed := [c.finish_reason for c in completions if c.finish_reason.startswith("error")]:
        raise RuntimeError(f"the engine failed on {len(failed)} of {len(requests)} rows, the first with {failed[0]}")

    full = rate_while_full(times, engine.batch_size)
    figures: Figures = {
        "rows": len(requests),
        "rows_per_second": len(requests) / times[-1],
        "rows_per_second_while_all_slots_are_busy": full,
        "slots": engine.batch_size,
        # Plus 1 for the prefill of the prompt, which generates the first token but is not a decode step.
        "steps_per_row": engine.occupancy.busy / len(requests) + 1,
        "caption_tokens_per_row": mean(completion.caption_tokens for completion in completions),
        "weights_seconds": weights,
    }
    more = [
        f"{full:.1f} with all slots busy" if full else "",
        f"{len(requests)} rows, {engine.batch_size} slots",
        f"{figures['steps_per_row']:.1f} steps a row, {figures['caption_tokens_per_row']:.1f} tokens a caption",
        f"{weights:.1f} s loading weights",
    ]
    return [Line(ENGINE_ALONE, f"{figures['rows_per_second']:.1f} rows/s", ", ".join(filter(None, more)), figures)]


def fuse_twice(options: Options, found: Mapping[str, Figures]) -> Sequence[Line]:
    rows = options.fuse_rows
    source, target, stats = (options.scratch / name for name in ("pairs.jsonl", "fused.jsonl", "stats.json"))
    pairs = enumerate(_pairs(options, rows))
    lines = [{"row": row, "laion_2b": raw, "laion_coco": synthetic} for row, (raw, synthetic) in pairs]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = FuseCommand(
        [source, target, "--model", options.model, "--stats", stats],
        Path(f"{target}.parts") / "chunks",
        {"TMPDIR": str(options.scratch)},
        _log(options),
    )

    command.start()
    command.wait_until(lambda: " are ready after " in command.log.read_text())
    ready = command.seconds()
    weights = float(re.findall(r"the weights are loaded after ([\d.]+) s", command.log.read_text())[0])
    command.wait_until(lambda: command.rows() >= rows / 3)
    command.kill()
    kept, rows_kept = command.chunks(), command.rows()

    command.start()
    again: set[str] = set()
    while command.running():
        again |= {name for name, written in command.chunks().items() if kept.get(name, written) != written}
    seconds = command.seconds()

    results = [json.loads(line) for line in target.read_text().splitlines()]
    progress = r"\d+/\d+ rows(?: \((\d+) of an earlier try\))?, ([\d.]+) rows/s"
    rows_found, rate = re.findall(progress, command.log.read_text())[-1]
    figures: Figures = {
        **json.loads(stats.read_text()),
        "ready_seconds": ready,
        "weights_seconds": weights,
        "second_try_seconds": seconds,
        "second_try_rows_per_second": float(rate),
        "rows_kept": rows_kept,
    }
    problems = {
        "rows are missing or out of order": [row["row"] for row in results] != list(range(rows)),
        "rows have no caption": any(row["capsfusion"] is None for row in results),
        f"the second try found {rows_found or 0} of the first try's {rows_kept} rows": int(rows_found or 0)
        != rows_kept,
        f"the second try overwrote the first try's chunks {sorted(again)}": bool(again),
    }
    if wrong := [problem for problem, is_there in problems.items() if is_there]:
        raise RuntimeError(f"{target.name} or its chunks are wrong after the restart: {'; '.join(wrong)}")

    alone = found.get(ENGINE_ALONE, {}).get("rows_per_second")
    more = [
        f"{float(rate) / alone:.0%} of the engine alone" if alone else "",
        f"ready to fuse after {ready:.1f} s, {weights:.1f} s of them loading weights",
        f"{figures['rows_kept']} rows kept from the first try, none fused again",
        f"second try {seconds:.1f} s",
        f"{figures['caption_tokens'] / rows:.1f} tokens a caption",
    ]
    case = f"fuse, {rows} rows, killed once"
    return [Line(case, f"{rate} rows/s after loading", ", ".join(filter(None, more)), figures)]


class FuseCommand:
    """A ``capsfusion fuse`` process that can be killed and restarted. Does not inherit CAPSFUSION_… variables."""

    def __init__(self, arguments: Sequence[Path | str], chunks: Path, variables: Mapping[str, str], log: Path) -> None:
        self.log = log
        self._chunks = chunks
        self._command = [sys.executable, "-m", "capsfusion_tasks.cli", "fuse", *map(str, arguments)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPSFUSION_")}
        self._environment = {**kept, **variables}
        self._process: subprocess.Popen[bytes]
        self._started = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._started = time.monotonic()
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def chunks(self) -> dict[str, int]:
        """The finished chunks (files with the captions of some rows): name → time of writing, in nanoseconds."""
        found = {}
        for file in self._chunks.glob("*.parquet"):
            try:
                found[file.name] = file.stat().st_mtime_ns
            except FileNotFoundError:  # the command has ended, and has deleted its chunks
                return {}
        return found

    def rows(self) -> int:
        """Number of rows in the finished chunks."""
        return sum(pq.read_metadata(self._chunks / name).num_rows for name in self.chunks())

    def running(self) -> bool:
        """Wait a moment, then return whether the command still runs. Raises RuntimeError if the command failed."""
        time.sleep(_POLL_SECONDS)
        code = self._process.poll()
        if code:
            raise RuntimeError(f"capsfusion fuse ended with exit code {code} after {self.seconds():.0f} s")
        return code is None

    def wait_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if not self.running():
                raise RuntimeError("capsfusion fuse finished before it could be killed: increase --fuse-rows")

    def kill(self) -> None:
        """Send SIGKILL to the command only. Its torchrun processes notice that the command is gone, and end."""
        self._process.kill()
        self._process.wait()
        time.sleep(_DYING_SECONDS)

    def seconds(self) -> float:
        return time.monotonic() - self._started
