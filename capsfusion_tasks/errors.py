"""Errors a user can act on. Each message says what was found, where, what was expected, and what to do."""

from __future__ import annotations


class InputError(Exception):
    """Input or configuration that trying again will not mend: exit code 2, a failed task without retries in Airflow."""


class NotReadyError(Exception):
    """Something outside does not answer now (a database, a lock): trying again later may help."""
