"""Measures how well validation finds planted faults, how well it agrees with judged captions, and how fast it is.

    python -m benchmarks.validation [--pairs FILE] [--judged FILE …] [--rows 500] [--missed 10]

Planted faults: inserts one fault into each of many good captions. Prints the share of these captions that is rejected
for the right reason, and the share that is rejected or flagged for any reason.

Judged captions: captions that were judged good or bad. Prints precision and recall of all rules together and of each
rule. The project's own judgements (benchmarks/data/judged.jsonl) contain no texts, so they need CapsFusion's published
pairs (--pairs). --judged adds a file of your own. Each of its lines has laion_2b, laion_coco, capsfusion and verdict
(good, minor or bad).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.corruptions import as_table, corrupted, good_pairs, missed
from benchmarks.judged import OWN, Judged, by_code, read_judged, verdict_counts
from benchmarks.workload import CAPTION, read_pairs
from capsfusion_tasks.validation.rules import REASONS
from capsfusion_tasks.validation.validate import validate_table


def print_planted(console: Console, pairs: list[tuple[str, ...]], rows: int) -> None:
    good = good_pairs(pairs)
    console.print(f"{len(good)} of {len(pairs)} captions are accepted; faults planted into them:")
    table = Table("kind", "reason", "rows", "right reason", "rejected or flagged", "missed, for example")
    for planted in corrupted(good, rows):
        lost = missed(planted)
        count = planted.rows.num_rows
        judged = validate_table(planted.rows)
        found = sum(
            bool(a or b) for a, b in zip(judged["reasons"].to_pylist(), judged["flags"].to_pylist(), strict=True)
        )
        example = escape(repr(lost["capsfusion"][0].as_py())[-80:]) if lost.num_rows else ""
        shares = [f"{part / count:.1%}" if count else "" for part in (count - lost.num_rows, found)]
        table.add_row(planted.kind, ", ".join(planted.reasons), str(count), *shares, example)
    console.print(table)


def print_judged(console: Console, name: str, rows: list[Judged], examples: int) -> None:
    """Print each rule's precision, and the shares of the bad and of the good captions that it rejects or flags.

    The first two lines are for all rules together. In the precision, a caption with a minor fault counts as half.
    """
    of = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("good", "minor", "bad")}
    console.print(f"{name}: {len(rows)} captions, {of['good']} good, {of['minor']} minor, {of['bad']} bad")
    table = Table("", "rows", "good", "minor", "bad", "precision", "bad only", "share of bad", "share of good")
    groups = {
        "rejected": verdict_counts(row for row in rows if row.reasons),
        "rejected or flagged": verdict_counts(row for row in rows if row.reasons or row.flags),
    }
    codes = sorted(by_code(rows).items(), key=lambda item: (item[0] not in REASONS, -item[1].rows))
    for label, found in [*groups.items(), *codes]:
        counts = found.counts
        table.add_row(
            label if label in groups or label in REASONS else f"flag {label}",
            *(str(n) for n in (found.rows, counts["good"], counts["minor"], counts["bad"])),
            f"{found.precision:.2f}",
            f"{found.strict:.2f}",
            f"{counts['bad'] / of['bad']:.2f}" if of["bad"] else "",
            f"{counts['good'] / of['good']:.2f}" if of["good"] else "",
            end_section=label == "rejected or flagged",
        )
    console.print(table)
    lost = [row for row in rows if row.verdict == "bad" and not row.reasons]
    console.print(f"{len(lost)} bad captions are not rejected, for example:")
    for row in lost[:examples]:
        console.print(f"  ({', '.join(row.faults)}) {row.fused.caption}", markup=False)


def print_rate(console: Console, workload: pa.Table) -> None:
    validate_table(workload)  # not timed: loads the model that detects languages, and fills the word caches
    rates = []
    for _ in range(5):
        started = time.process_time()
        validate_table(workload)
        rates.append(workload.num_rows / (time.process_time() - started))
    console.print(
        f"{statistics.median(rates):,.0f} rows/s on one core, the median of 5 ({min(rates):,.0f} to {max(rates):,.0f})"
    )


def _sample(rows: list[Judged], name: str) -> list[Judged]:
    return [row for row in rows if row.sample == name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs",
        type=Path,
        help=f"file with the columns laion_2b, laion_coco and {CAPTION} (default: generated pairs)",
    )
    parser.add_argument(
        "--judged",
        type=Path,
        nargs="*",
        default=[],
        help=".jsonl files of captions that you judged (see docs/validation-quality.md)",
    )
    parser.add_argument("--rows", type=int, default=500, help="number of captions with each kind of fault")
    parser.add_argument("--missed", type=int, default=10, help="print at most this many bad captions that are accepted")
    args = parser.parse_args()

    console = Console()
    pairs = read_pairs(args.pairs, 5000, CAPTION)
    own = read_judged(OWN, pairs)
    judged = {
        "The project's judgements, random captions that no rule was fitted to": _sample(own, "held out"),
        "The project's judgements, random captions that rules were fitted to": _sample(own, "fitted"),
        "The project's judgements, mostly captions that one rule alone rejects": _sample(own, "aimed"),
        **{str(path): read_judged(path) for path in args.judged},
    }
    for name, rows in judged.items():
        if rows:
            print_judged(console, name, rows, args.missed)
    print_planted(console, pairs, args.rows)
    print_rate(console, as_table(pairs))


if __name__ == "__main__":
    main()
