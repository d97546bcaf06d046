"""What a task works with: settings, staging area (files), warehouse (PostgreSQL) and decoding settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import fusions
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse


@dataclass(frozen=True)
class Context:
    """Settings, storage and warehouse. Opened once per Airflow task, or once for all tasks of ``capsfusion run``."""

    settings: Settings
    storage: Storage
    warehouse: Warehouse
    # The fusion_id (id of decoding settings) of the planned units that the task continues. None: derive the fusion_id
    # from the settings.
    fusion_id: str | None = None

    @cached_property
    def decoding(self) -> Decoding:
        """The decoding settings for new work units, with their fusion_id.

        If the warehouse has a record of equal settings, their recorded fusion_id is used. Use this
        only for planning. For a unit that is planned already, use ``decoding_of``.
        """
        if self.fusion_id is not None:
            return self.decoding_of(self.fusion_id)
        decided = decide(self.settings)
        with self.warehouse.engine.begin() as connection:
            return fusions.as_recorded(connection, decided)

    def decoding_of(self, fusion_id: str) -> Decoding:
        """The decoding settings that were recorded when the units of ``fusion_id`` were planned."""
        with self.warehouse.engine.connect() as connection:
            return fusions.decoding_of(connection, fusion_id)


@contextmanager
def open_context(settings: Settings) -> Iterator[Context]:
    """A context whose warehouse is open until the block ends. Raises the same errors as ``open_warehouse``."""
    with open_warehouse(settings) as warehouse:
        yield Context(settings, Storage(settings.staging_uri), warehouse)
