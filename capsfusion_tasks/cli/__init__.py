"""``capsfusion …``: the command line. Thin: each command checks its arguments and calls one function."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from capsfusion_tasks.cli.common import stderr
from capsfusion_tasks.cli.files import fuse, validate
from capsfusion_tasks.cli.fusions import adopt
from capsfusion_tasks.cli.runs import plan, replay, run
from capsfusion_tasks.cli.show import demo, sample_data, up
from capsfusion_tasks.cli.upkeep import check, gc
from capsfusion_tasks.cli.warehouse import db_upgrade, export, sql, status
from capsfusion_tasks.errors import InputError, NotReadyError, printable

app = typer.Typer(
    help="Fuse raw and synthetic web image captions into good training captions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (fuse, validate, run, replay, plan, status, check, gc, adopt, sql, export, sample_data, demo, up):
    app.command()(command)
db = typer.Typer(help="The warehouse's schema.", no_args_is_help=True)
db.command("upgrade")(db_upgrade)
app.add_typer(db, name="db")


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Exit code 0: done. 2 and one line: the input or the configuration is at fault. 1: something else failed."""
    from capsfusion_tasks.fusion.launcher import TorchrunFailed

    # So that what is open is closed: torchrun is told to end, the embedded server stops.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        app()
    except (InputError, NotReadyError) as error:
        stderr.print(f"capsfusion: error: {error}", markup=False, highlight=False, style="red")
        sys.exit(2)
    except TorchrunFailed as error:
        stderr.print(printable(f"capsfusion: {error}"), markup=False, highlight=False, style="red")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
