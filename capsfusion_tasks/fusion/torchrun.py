"""Starts torchrun. If torch cannot be loaded, prints an error of one line instead of a traceback.

``python -m capsfusion_tasks.fusion.torchrun`` takes the arguments of ``python -m torch.distributed.run``.

torch and the libraries that it uses read hundreds of environment variables while they are imported. For a wrong value,
such as TORCH_DISTRIBUTED_DEBUG=yes or TORCH_LOGS=loud, they raise an error. This error becomes an InputError, because
a retry would fail in the same way.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from typing import NoReturn

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.launcher import INPUT_ERROR_MARK

_NAME = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")  # the name of an environment variable or a constant
_MESSAGE_MAX = 400  # maximum length of a library's message; torch answers TORCH_LOGS=x with a page of names


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Wraps a block that imports or starts the library ``what``.

    If the block fails, raises InputError. The message names the environment variables that may be the cause.
    """
    try:
        yield
    except (AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        if len(said) > _MESSAGE_MAX:
            said = f"{said[:_MESSAGE_MAX]}…"
        message = f"{what} cannot be loaded: {type(error).__name__}: {said.rstrip('.')}"
        if found := variables_of(error, os.environ):
            given = " and ".join(f"{name}={os.environ[name]!r:.100}" for name in found)
            message += f"; {what} reads {given} from the environment: correct or unset it"
        else:
            message += f"; correct the installation, or unset the environment variables for {what}"
        raise InputError(message) from error


def variables_of(error: BaseException, environment: Mapping[str, str]) -> list[str]:
    """The variables of ``environment`` that are named in the message of ``error``, or else in the code that raised it.

    The code may contain the variable's name, or the name of a constant of its module whose value is the variable's
    name.
    """
    if found := set(_NAME.findall(str(error))) & environment.keys():
        return sorted(found)
    for frame, _ in reversed([*walk_tb(error.__traceback__)]):
        try:
            words = _NAME.findall(inspect.getsource(frame.f_code))
        except (OSError, TypeError):  # the code that raised the error has no source file
            continue
        constants = [value for word in words if isinstance(value := frame.f_globals.get(word), str)]
        if found := {*words, *constants} & environment.keys():
            return sorted(found)
    return []


def exit_now(code: int) -> NoReturn:
    """End this process without Python's cleanup, which takes a second after an import of torch."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    try:
        with loading("torch"):
            from torch.distributed.run import main as torchrun
    except InputError as error:
        print(f"{INPUT_ERROR_MARK}{error}", flush=True)
        sys.exit(2)
    torchrun()
    exit_now(0)


if __name__ == "__main__":
    main()
