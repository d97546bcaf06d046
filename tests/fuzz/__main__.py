"""``python -m tests.fuzz --minutes 10`` runs each target on random inputs for ten minutes, in its own process.

Reports the input at which a target failed, crashed or hung. To keep testing such an input, add it to the target's
``past``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.targets import TARGETS

HANG_SECONDS = 120  # seconds that one input may take
START_SECONDS = 600  # seconds for the imports before the first input, even on a busy machine
LONG = settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def fuzz(name: str, minutes: float, first_seed: int, last: Path) -> None:
    """Try inputs for ``minutes``. The file ``last`` contains the current input, for the report."""
    target, tried, longest, failed = TARGETS[name], 0, 0.0, False
    until = time.monotonic() + 60 * minutes

    def holds(found: Any) -> None:
        nonlocal tried, longest, failed
        # When the time is over, accept inputs without a test. But if an input has failed, let hypothesis shrink it.
        if time.monotonic() > until and not failed:
            return
        last.write_text(repr(found), errors="backslashreplace")
        started = time.monotonic()
        try:
            target.holds(found)
        except BaseException:
            failed = True
            raise
        tried, longest = tried + 1, max(longest, time.monotonic() - started)

    number = first_seed
    while time.monotonic() < until:
        seed(number)(LONG(given(target.strategy)(holds)))()
        number += 1
    print(f"{name}: {tried} inputs, the slowest took {longest:.2f} s, seeds {first_seed} to {number - 1}", flush=True)


def watched(name: str, minutes: float, first_seed: int) -> bool:
    """Fuzz in a new process. Returns whether it ended without a failure. Deletes the process's temporary files."""
    with tempfile.TemporaryDirectory(prefix="capsfusion-fuzz-", ignore_cleanup_errors=True) as folder:
        last = Path(folder) / "last"
        last.touch()
        options = ["--target", name, "--minutes", str(minutes), "--seed", str(first_seed), "--last", str(last)]
        environment = {**os.environ, "TMPDIR": folder}
        process = subprocess.Popen([sys.executable, "-m", "tests.fuzz", *options], env=environment)
        try:
            while process.poll() is None:
                time.sleep(0.5)
                state = last.stat()
                if time.time() - state.st_mtime > (HANG_SECONDS if state.st_size else START_SECONDS):
                    process.kill()
                    process.wait()
                    print(f"{name}: hangs", flush=True)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            found = last.read_text()[:20_000]
            print(f"{name}: exit code {process.returncode}, seed {first_seed}, at the input:\n{found}", flush=True)
        return process.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes for each target")
    parser.add_argument("--target", choices=TARGETS, action="append", help="run only this target; can be repeated")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(1 << 32),
        help="random seed of the first inputs (default: a new one)",
    )
    parser.add_argument("--last", type=Path, help=argparse.SUPPRESS)
    given_ = parser.parse_args()
    if given_.last:
        fuzz(given_.target[0], given_.minutes, given_.seed, given_.last)
        return 0
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    through = [watched(name, given_.minutes, given_.seed) for name in given_.target or TARGETS]
    return 0 if all(through) else 1


if __name__ == "__main__":
    sys.exit(main())
