"""The web app's access to the warehouse: opened at the first request, with a time limit for each query."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import Connection

from capsfusion_tasks.settings import Settings
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.reading import reading, writing

SECONDS = 10  # time limit of a query, because a longer query would make other users wait


class WarehouseAccess:
    """Opens the warehouse of ``settings`` at the first request, so that the page can show errors in the settings."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._opened: Warehouse | None = None
        self._rules = RuleSettings()
        self._stack = ExitStack()
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A read-only transaction.

        Raises InputError or NotReadyError if the warehouse cannot be used or does not answer in time.
        """
        with reading(self._warehouse(), SECONDS) as connection:
            yield connection

    @contextmanager
    def writable(self, what: str) -> Iterator[Connection]:
        """A transaction that may write. Raises the same errors as ``connection``.

        ``what``: name of the written data, for error messages.
        """
        with writing(self._warehouse(), SECONDS, what) as connection:
            yield connection

    @property
    def rules(self) -> RuleSettings:
        """The thresholds of the validation rules. They are read from the settings when the warehouse is opened."""
        return self._rules

    def close(self) -> None:
        with self._lock:
            self._opened = None
            self._stack.close()

    def _warehouse(self) -> Warehouse:
        with self._lock:
            if self._opened is None:
                settings = self._settings()
                self._opened = self._stack.enter_context(open_warehouse(settings, migrate=False))
                self._rules = settings.rules
            return self._opened
