"""Errors that a user can act on. Each message says what is wrong, where, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence


def first_lines(lines: Sequence[str], limit: int = 10) -> list[str]:
    """The first ``limit`` lines, and a line with the number of the remaining lines."""
    more = len(lines) - limit
    return [*lines[:limit], f"and {more} more"] if more > 0 else [*lines]


def printable(text: str) -> str:
    """``text`` with invisible characters escaped (``\\x1b``), except line breaks. For logs, terminals and pages.

    Names of shards and columns come from outside, so they can contain escape sequences or right-to-left marks.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _Told(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(_Told):
    """Wrong input or configuration: a retry will not help. Exit code 2; in Airflow the task fails without retries."""


class NotReadyError(_Told):
    """A resource is unavailable at the moment (a database, a lock): a retry may help. Exit code 75."""


class TorchrunFailed(Exception):
    """torchrun or one of its ranks (processes) failed; the message has the last lines of its output. Exit code 1."""
