"""``capsfusion …``: the command line. Each command checks its arguments and calls one function."""

from __future__ import annotations

import inspect
import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from capsfusion_tasks import __version__
from capsfusion_tasks.cli.common import log_to_stderr, report_error, when_interrupted
from capsfusion_tasks.cli.files import fuse, validate
from capsfusion_tasks.cli.fusions import adopt
from capsfusion_tasks.cli.lake import lake_maintain, lake_sync
from capsfusion_tasks.cli.runs import plan, replay, run
from capsfusion_tasks.cli.settings import settings
from capsfusion_tasks.cli.show import demo, sample_data, up
from capsfusion_tasks.cli.upkeep import check, gc
from capsfusion_tasks.cli.warehouse import db_upgrade, export, sql, status
from capsfusion_tasks.errors import InputError, NotReadyError, TorchrunFailed

app = typer.Typer(
    help="Fuse raw and synthetic captions of web images into good training captions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_AGAIN = "Run the same command again to continue."
# What each command prints after Ctrl-C: what is kept, and how to continue. The command's arguments replace names in
# braces, such as {target}. The folder with the finished rows of `capsfusion fuse` replaces {parts}.
_COMMANDS: dict[Callable[..., None], str] = {
    fuse: "Finished rows are kept in {parts}. Run the same command again, without --no-resume, to continue.",
    validate: "Nothing was written.",
    run: f"Pulled shards, finished rows and loaded units are kept. {_AGAIN}",
    replay: f"Finished rows and loaded units are kept. {_AGAIN}",
    plan: "Nothing was changed.",
    status: "Nothing was changed.",
    check: "Nothing was changed, except for the repairs that were reported.",
    gc: "Without --delete, nothing was changed. With --delete, run the same command again to delete the rest.",
    adopt: "Nothing was changed.",
    sql: "Nothing was changed.",
    export: f"Finished files are kept in {{target}}. {_AGAIN}",
    sample_data: "{folder} is not complete. Run the same command again to write the rest.",
    settings: "Nothing was changed.",
    demo: _AGAIN,
    up: _AGAIN,
}


def _help(command: Callable[..., None]) -> str:
    """The command's docstring with each paragraph on one line, so that help wraps to the terminal's width."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _command, _kept in _COMMANDS.items():
    app.command(help=_help(_command))(when_interrupted(_command, _kept))
db = typer.Typer(help="Manage the tables of the warehouse.", no_args_is_help=True)
db.command("upgrade", help=_help(db_upgrade))(when_interrupted(db_upgrade, f"Finished migrations are kept. {_AGAIN}"))
app.add_typer(db, name="db")
lake = typer.Typer(help="Write accepted captions to an Iceberg table, and maintain the table.", no_args_is_help=True)
lake.command("sync", help=_help(lake_sync))(when_interrupted(lake_sync, f"Written units are kept. {_AGAIN}"))
lake.command("maintain", help=_help(lake_maintain))(
    when_interrupted(lake_maintain, f"Rewritten partitions are kept. {_AGAIN}")
)
app.add_typer(lake, name="lake")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"capsfusion {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command that the arguments name, and exit.

    Exit codes: 0 success; 2 wrong input or settings; 75 (EX_TEMPFAIL) a resource is unavailable, so the same command
    may succeed later; 130 Ctrl-C; 1 any other failure.
    """
    # Turn SIGTERM into an exception, so that the command's `with` blocks end torchrun and stop the embedded server.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    log_to_stderr(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print \u… for a character that stdout cannot encode
    try:
        app()
    except InputError as error:
        report_error(f"error: {error}")
        sys.exit(2)
    except NotReadyError as error:
        report_error(f"not now: {error}")
        sys.exit(os.EX_TEMPFAIL)
    except (
        PermissionError,
        NotADirectoryError,
        FileExistsError,
    ) as error:  # an error about a path that an argument or CAPSFUSION_HOME names
        report_error(f"error: {error.strerror}: {error.filename}; choose another path, or set CAPSFUSION_HOME")
        sys.exit(2)
    except TorchrunFailed as error:
        report_error(str(error))
        sys.exit(1)
    except BrokenPipeError:  # the program that reads our output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
