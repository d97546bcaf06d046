"""What the commands share: options, progress lines, errors, and messages after Ctrl-C."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.locations import parts_path
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.variables import unusable

stderr = Console(stderr=True, soft_wrap=True)


def not_empty(text: str) -> str:
    """Return ``text``, a path, an address or a name. Refuses "", which would count as "." or as a missing option."""
    if not text.strip():
        raise typer.BadParameter(
            "the value is empty: give a value. If you gave a shell variable, the variable is not set"
        )
    return text


def local_path(text: str) -> Path:
    """An argument as a path. Expands ``~``, because shells do not expand ``~`` in ``--out=~/x``."""
    try:
        return Path(not_empty(text)).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: this system has no such home folder; write the path in full") from error


Model = Annotated[
    str | None,
    typer.Option(
        parser=not_empty,
        metavar="TEXT",
        help="Model folder, or Hugging Face hub id such as BAAI/CapsFus-LLaMA. Default: CAPSFUSION_MODEL, or the demo"
        " model.",
    ),
]
PromptFile = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        parser=not_empty,
        metavar="FILE",
        help="File with a prompt that contains {raw} and {synthetic}. Default: CAPSFUSION_PROMPT, or the paper's"
        " prompt.",
    ),
]
Beams = Annotated[
    int | None,
    typer.Option(
        help="Number of beams of the beam search; 1 is greedy. Default: CAPSFUSION_NUM_BEAMS, or 3.", min=1, max=16
    ),
]
Existing = Annotated[
    Literal["skip", "replace"],
    typer.Option(
        help="What to do with pairs that were fused before with the same settings: skip them, or fuse them again."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Fuse at most this many pairs.", min=1)]
MaxGpuHours = Annotated[
    float | None, typer.Option(help="Stop before fusing if the estimate exceeds this number of GPU hours.", min=0)
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        help="Stop before fusing if the estimated cost is above this limit. Needs CAPSFUSION_GPU_HOUR_PRICE.", min=0
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(help="Maximum length of a caption, in tokens. Default: CAPSFUSION_MAX_NEW_TOKENS, or 80.", min=1),
]
KeepBeams = Annotated[
    bool | None,
    typer.Option(
        help="Keep all captions of the beam search, and take the best one that validation accepts. Default:"
        " CAPSFUSION_KEEP_BEAMS, or no."
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float8"] | None,
    typer.Option(
        help="Number format of the model. auto: bfloat16 on a GPU, float32 on a CPU. Only float32"
        " gives a pair the same caption every time."
    ),
]


def parse_time(text: str) -> datetime:
    """Parse a date or time in ISO 8601. A time with a zone is converted to UTC. A time without a zone stays without.

    Does not use typer's own parser, which would read 20261110 as a number of seconds since 1970.
    """
    try:
        time = datetime.fromisoformat(text.strip())
        return time.astimezone(UTC) if time.tzinfo else time
    except (ValueError, OverflowError) as error:  # OverflowError: in UTC, the year is not between 1 and 9999
        why = "" if "isoformat" in str(error) else f" ({error})"
        raise typer.BadParameter(
            f"{text!r} is not a date{why}: write it as 2026-11-10, or with a time (UTC) as 2026-11-10T08:30"
        ) from error


def time_option(meaning: str) -> Any:
    """An option with a date or a time. ``meaning`` is its help text."""
    return typer.Option(parser=parse_time, metavar="TIME", help=meaning)


def print_default_model(model: str | None, settings: Settings) -> None:
    """If ``--model`` is missing, print which model is used instead, and warn if this is the demo model, a toy."""
    if model is None and settings.model == str(BUNDLED_MODEL):
        progress_line("model: the bundled demo model, a toy. For real captions: --model BAAI/CapsFus-LLaMA")
    elif model is None:
        progress_line(f"model: {settings.model} (CAPSFUSION_MODEL)")


def progress_line(line: str) -> None:
    stderr.print(printable(line), markup=False, highlight=False)


def report_error(message: str) -> None:
    stderr.print(printable(f"capsfusion: {message}"), markup=False, highlight=False, style="red")


class _ProgressLines(logging.Handler):
    """Prints log records as lines of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        progress_line(self.format(record))


def log_to_stderr(level: int) -> None:
    """Print the project's log records of ``level`` or above, such as retries and skipped files."""
    logger = logging.getLogger("capsfusion_tasks")
    logger.handlers = [_ProgressLines(level)]
    logger.propagate = False


def when_interrupted(command: Callable[..., None], kept: str) -> Callable[..., None]:
    """Wrap ``command``: on Ctrl-C, print ``kept`` with the command's arguments filled in, and exit with 130."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        if problems := unusable(os.environ):  # check variables before the command imports the libraries that read them
            raise InputError("environment variables that cannot be used: " + "; ".join(problems))
        try:
            command(**arguments)
        except KeyboardInterrupt:
            parts = parts_path(arguments["target"]) if "{parts}" in kept else None
            report_error(f"interrupted. {kept.format(**arguments, parts=parts)}")
            sys.exit(130)

    return run


def settings_to_read(**overrides: Any) -> Settings:
    """The settings of a command that needs an existing warehouse. Prints the folder of an embedded warehouse.

    Raises InputError if the embedded warehouse does not exist yet, because such a command must not create it.
    """
    settings = load_settings(**overrides)
    if settings.warehouse_url is None:
        if not os.path.isdir(settings.home / "postgres"):  # isdir is also False if this user may not read home
            raise InputError(
                f"there is no warehouse in {settings.home} yet: set CAPSFUSION_HOME or CAPSFUSION_WAREHOUSE_URL to use"
                " another warehouse, or run capsfusion demo or capsfusion run, which create one"
            )
        progress_line(f"warehouse: {settings.home}")
    return settings
