"""Measures the time for syncing files of the staging area (the folder for files between stages) to the disk.

    python -m benchmarks.staging [--files 400] [--kilobytes 100] [--folder FOLDER]

Writes files through ``Storage.publish``, each into a folder of its own, as pairing does. Compares three ways to write
them: without syncing, with syncing each file, and with syncing each file and its folders, as the pipeline does. Each
repetition measures all three ways.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from capsfusion_tasks.staging import durable
from capsfusion_tasks.staging.storage import Storage

# Way of writing → the functions of the module ``durable`` that this way leaves out.
WAYS = {"no sync": ("sync_file", "sync_folder"), "files": ("sync_folder",), "files and folders": ()}


def main() -> None:
    # Turn SIGTERM into an exception, so that temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--kilobytes", type=int, default=100, help="size of each file")
    parser.add_argument("--repeat", type=int, default=5, help="how often to measure each of the three ways")
    parser.add_argument("--folder", type=Path, help="where to write the files (default: the system's temporary folder)")
    args = parser.parse_args()

    content = os.urandom(args.kilobytes * 1000)
    table = Table(title=f"ms per file of {args.kilobytes} kB, median of {args.repeat} turns")
    table.add_column("writers", justify="right")
    for way in WAYS:
        table.add_column(way, justify="right")
    for writers in (1, 4):
        turns = [[_write(args, content, writers, off) for off in WAYS.values()] for _ in range(args.repeat)]
        table.add_row(str(writers), *(f"{statistics.median(times):.2f}" for times in zip(*turns, strict=True)))
    Console(width=100).print(table)


def _write(args: argparse.Namespace, content: bytes, writers: int, off: tuple[str, ...]) -> float:
    """Write the files. The functions of the module ``durable`` in ``off`` do nothing meanwhile. Returns ms per file."""
    nothing: Callable[[object], None] = lambda _: None  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="capsfusion-bench-", dir=args.folder) as home, ExitStack() as without:
        for name in off:
            without.enter_context(patch.object(durable, name, nothing))
        storage = Storage(home)

        def write(number: int) -> None:
            with storage.publish(f"buckets/{number:05}/file") as stream:
                stream.write(content)

        started = time.perf_counter()
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, range(args.files)))
        return 1000 * (time.perf_counter() - started) / float(args.files)


if __name__ == "__main__":
    main()
