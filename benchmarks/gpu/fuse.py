"""``capsfusion fuse`` from end to end: killed at a third of the rows, started again, and its output checked.

The command runs as users run it, with torchrun, so it needs pydantic-settings, psutil and typer as well.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.gpu.cases import Case, Figures, Line, Options
from benchmarks.workload import read_pairs

ENGINES_OWN = "rate, bfloat16, 3 beams"  # the line that the command's rate is compared with
_POLL_SECONDS = 0.05
_DYING_SECONDS = 2.0  # in which the ranks of a killed command end
_SECONDS = 100.0  # for each start


def cases(options: Options) -> list[Case]:
    return [Case("fuse, killed once", partial(fuse_twice, options), 2 * _SECONDS + 30)]


def fuse_twice(options: Options, found: Mapping[str, Figures]) -> Sequence[Line]:
    rows = options.fuse_rows
    source, target, stats = (options.scratch / name for name in ("pairs.jsonl", "fused.jsonl", "stats.json"))
    pairs = islice(cycle(read_pairs(options.pairs, rows)), rows)
    lines = [{"row": row, "laion_2b": raw, "laion_coco": coco} for row, (raw, coco) in enumerate(pairs)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = FuseCommand(
        [source, target, "--model", options.model, "--stats", stats],
        Path(f"{target}.parts") / "chunks",
        {"TMPDIR": str(options.scratch)},
        options.scratch / "fuse.log",
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
    told = re.findall(r"(\d+)/(\d+) rows(?: \((\d+) of an earlier try\))?", command.log.read_text())[-1]
    figures: Figures = {
        **json.loads(stats.read_text()),
        "ready_seconds": ready,
        "weights_seconds": weights,
        "second_try_seconds": seconds,
        "rows_kept": rows_kept,
    }
    problems = {
        "rows are missing or out of order": [row["row"] for row in results] != list(range(rows)),
        "rows have no caption": any(row["capsfusion"] is None for row in results),
        f"the second try found {told[2] or 0} of the first try's {rows_kept} rows": int(told[2] or 0) != rows_kept,
        f"the second try wrote over {sorted(again)}": bool(again),
    }
    if wrong := [problem for problem, is_there in problems.items() if is_there]:
        raise RuntimeError("; ".join(wrong))

    rate = figures["rows_per_second"]
    own = found.get(ENGINES_OWN, {}).get("rows_per_second")
    more = [
        f"{rate / own:.0%} of the engine's own" if own else "",
        f"ready to fuse after {ready:.1f} s, {weights:.1f} s of them loading weights",
        f"{figures['rows_kept']} rows kept from the first try, none fused again",
        f"second try {seconds:.1f} s",
        f"{figures['caption_tokens'] / rows:.0f} tokens a caption",
    ]
    case = f"fuse, {rows} rows, killed once"
    return [Line(case, f"{rate:.1f} rows/s after loading", ", ".join(filter(None, more)), figures)]


class FuseCommand:
    """``capsfusion fuse``, which may be killed and started again. Settings of the environment do not reach it."""

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
        """The finished chunks by name, and when each was written."""
        found = {}
        for file in self._chunks.glob("*.parquet"):
            try:
                found[file.name] = file.stat().st_mtime_ns
            except FileNotFoundError:  # the end: they are deleted
                return {}
        return found

    def rows(self) -> int:
        """Rows in the finished chunks."""
        return sum(pq.read_metadata(self._chunks / name).num_rows for name in self.chunks())

    def running(self) -> bool:
        """Whether it goes on after a moment. Raises RuntimeError where it failed, or takes too long."""
        time.sleep(_POLL_SECONDS)
        code = self._process.poll()
        if code is None and self.seconds() > _SECONDS:
            self.kill()
            code = -signal.SIGKILL
        if code:
            last = self.log.read_text(errors="replace").splitlines()[-40:]
            print("\n".join(last), flush=True)
            raise RuntimeError(f"capsfusion fuse ended with exit code {code} after {self.seconds():.0f} s")
        return code is None

    def wait_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            if not self.running():
                raise RuntimeError("capsfusion fuse was done before it could be killed: give it more --fuse-rows")

    def kill(self) -> None:
        """SIGKILL to the command alone; torchrun and its ranks notice that and end."""
        self._process.kill()
        self._process.wait()
        time.sleep(_DYING_SECONDS)

    def seconds(self) -> float:
        return time.monotonic() - self._started
