"""Starts the program ``capsfusion``. Imports nothing of the project at its top, so that Ctrl-C is quiet at once."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Ctrl-C while its libraries are imported, for a second or more, ends it without a traceback.

    A program that ignores Ctrl-C, such as one that a script started in the background, goes on to ignore it.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from capsfusion_tasks.cli import main as run_command

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command()
