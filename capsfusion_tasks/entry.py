"""Starts the program ``capsfusion``. Imports the project late, so that Ctrl-C during imports prints no traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. The imports take a second or more. Ctrl-C during this time prints no traceback.

    If the program was started with Ctrl-C ignored, for example by a script in the background, Ctrl-C stays ignored.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from capsfusion_tasks.cli import main as run_command

    if heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_command()
