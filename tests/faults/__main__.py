"""``make test-faults`` breaks runs at random, retries each, and compares the rows with those of an undisturbed run."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import SystemRandom

from tests import object_store
from tests.faults.trial import Outcome, Trial, attempt, possible_faults, report
from tests.faults.workload import Workload


def main() -> int:
    arguments = _arguments()
    # Hide the S3 server's log line for each request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    faults, impossible = possible_faults()
    for name, why in impossible.items():
        print(f"left out: {name}: {why}")
    faults = [fault for fault in faults if arguments.fault in fault.name]
    # A trial's seed is its number. To repeat the trial: --seed NUMBER --runs 1 --fault NAME.
    trials = [Trial.drawn(arguments.seed + number, faults[number % len(faults)]) for number in range(arguments.runs)]
    print(f"--seed {arguments.seed}: {len(trials)} runs, {len(faults)} faults", flush=True)
    deadline = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory(prefix="capsfusion-faults-") as folder, object_store.serving("faults") as bucket:
        workload = Workload.prepare(Path(folder), bucket)
        rows, seconds = len(workload.expected.rows), workload.seconds
        print(f"unbroken: {rows} rows in {seconds:.1f} s", flush=True)

        def run(trial: Trial) -> Outcome | None:
            if time.monotonic() > deadline:
                return None
            outcome = attempt(trial, workload)
            state = "broken" if outcome.broken else "withstood"
            print(f"{trial}: {state}, {outcome.seconds:.1f} s; {outcome.found or 'nothing lost'}", flush=True)
            if arguments.verbose or outcome.found:
                print("    " + "\n    ".join(outcome.said), flush=True)
            return outcome

        with ThreadPoolExecutor(arguments.jobs) as pool:
            outcomes = [outcome for outcome in pool.map(run, trials) if outcome]
    print(f"\nunbroken: {rows} rows in {seconds:.1f} s\n{report(outcomes)}")
    failed = [outcome for outcome in outcomes if outcome.found]
    for outcome in failed:
        print(f"\n{outcome.trial}:")
        print("\n".join(f"    {problem}" for problem in outcome.found.problems))
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="number of runs to break (default: 200)")
    parser.add_argument(
        "--seed", type=int, default=SystemRandom().randrange(10**6), help="random seed (default: a new one)"
    )
    parser.add_argument("--minutes", type=float, default=60, help="start no run after this many minutes (default: 60)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time (default: 2)")
    parser.add_argument("--fault", default="", help="only faults whose names contain this text")
    parser.add_argument("--verbose", action="store_true", help="also print the last lines of each broken run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
