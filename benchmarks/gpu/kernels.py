"""Runs the tests of the Triton kernels on the GPU, or without a GPU in Triton's interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.gpu.cases import Case, Figures, Line, Options

ROOT = Path(__file__).parents[2]
TESTS = "tests/fusion/native/test_kernels.py"


def cases(options: Options) -> list[Case]:
    log = options.scratch / "kernels.log"
    return [Case("kernels", partial(run_tests, log), log=log)]


def run_tests(log: Path, _: Mapping[str, Figures]) -> Sequence[Line]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", TESTS]
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
    last = log.read_text().strip().rpartition("\n")[2]
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last)}
    ok = done.returncode == 0 and counts.get("passed", 0) > 0
    return [Line("kernels", last.strip("= ") if ok else "FAILED", "" if ok else last.strip("= "), counts, ok)]
