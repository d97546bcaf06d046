"""Errors a user can act on. Each message says what was found, where, what was expected, and what to do."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` as it may stand in a log, on a terminal or in a page: what cannot be seen is named (``\\x1b``).

    A shard's name or a column's comes from outside, and can hold escape sequences or turn the text around it. Line
    breaks stay: a message may have lines.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class _Told(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InputError(_Told):
    """Input or configuration that trying again will not mend: exit code 2, a failed task without retries in Airflow."""


class NotReadyError(_Told):
    """Something outside does not answer now (a database, a lock): trying again later may help."""
