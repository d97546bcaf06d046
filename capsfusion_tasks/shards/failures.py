"""Turns errors of the operating system into errors that say whether a retry may help, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from capsfusion_tasks.errors import InputError, NotReadyError

# Temporary errors, such as errors of a disk or a network, too little memory, and too many open files.
_MAY_PASS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EREMOTEIO,
        errno.ESTALE,
    }
)
_ADVICE = {
    errno.EACCES: "give the user that runs this process the right to read it",
    errno.EPERM: "give the user that runs this process the right to read it",
    errno.ELOOP: "a link leads back to itself: replace it",
    errno.ENAMETOOLONG: "move it to a shorter path",
    errno.ENOENT: "put it back",
    errno.ENOTDIR: "put it back",
}


def system_error(what: str, error: OSError | ValueError) -> InputError | NotReadyError:
    """The error for a failed action. ``what`` describes the failure, as in "cannot read /a/b.parquet"."""
    code = error.errno if isinstance(error, OSError) else None
    # For errors with a code, use the operating system's text. Arrow's text would repeat the path.
    reason = os.strerror(code) if code is not None else str(error).strip()
    if isinstance(error, OSError) and error.filename and str(error.filename) not in what:
        reason += f" ({error.filename})"
    if code in _MAY_PASS or isinstance(error, (ConnectionError, TimeoutError)):
        return NotReadyError(f"{what} now: {reason}: try again later")
    advice = _ADVICE.get(code) if code is not None else None
    return InputError(f"{what}: {reason}{f': {advice}' if advice else ''}")


@contextmanager
def system_errors(what: str) -> Iterator[None]:
    """Turn OSErrors and ValueErrors of the block into InputError or NotReadyError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise system_error(what, error) from error
