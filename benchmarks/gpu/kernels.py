"""The tests of the Triton kernels, on the GPU; without one, in Triton's interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.cases import Case, Figures, Line, Options

ROOT = Path(__file__).parents[2]
TESTS = "tests/fusion/native/test_kernels.py"
_SECONDS = 110.0


def cases(_: Options) -> list[Case]:
    return [Case("kernels", run_tests, _SECONDS + 10)]


def run_tests(_: Mapping[str, Figures]) -> Sequence[Line]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", TESTS]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_SECONDS
    )
    print(done.stdout, flush=True)
    last = done.stdout.strip().rpartition("\n")[2]
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last)}
    ok = done.returncode == 0 and counts.get("passed", 0) > 0
    return [Line("kernels", last.strip("= ") if ok else "FAILED", "" if ok else last.strip("= "), counts, ok)]
